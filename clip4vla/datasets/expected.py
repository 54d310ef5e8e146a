"""Planned clips against the official counts of the config: a difference is said, never hidden."""

import pyarrow as pa

from clip4vla.config.data import Dataset


def differences(name: str, dataset: Dataset, splits: pa.Table) -> list[str]:
    """One line for every split whose number of planned clips is not the official one.

    `splits` has a column `split`. Nothing is refused: links and lists change, and what is scored is
    counted wherever it is printed.
    """
    counted = splits["split"].value_counts().to_pylist()
    planned = {row["values"]: row["counts"] for row in counted}
    lines = []
    for split, expected in sorted(dataset.expected.items()):
        count = planned.get(split, 0)
        if count == expected.clips:
            continue
        share = (count - expected.clips) / max(expected.clips, 1)
        beyond = "within" if abs(share) <= expected.tolerance else "BEYOND"
        lines.append(
            f"{name}: split {split} has {count:,} clips, officially {expected.clips:,} "
            f"({share:+.1%}; {beyond} the tolerance of {expected.tolerance:.1%})"
        )
    return lines
