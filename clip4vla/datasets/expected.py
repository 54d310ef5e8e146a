"""Compare the numbers of planned clips with the official counts of the config."""

import pandas as pd
import pyarrow as pa

from clip4vla.config.data import Dataset, Expected

_COUNTED = {"planned": "clips", "with_video": "clips", "with_sound": "with_sound"}


def differences(name: str, dataset: Dataset, splits: pa.Table) -> list[str]:
    """Return one line for every split whose number of planned clips is not the official one.

    `splits` has a column `split`. No difference is an error, because links and lists change; every
    table prints the number of clips that were scored.
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


def compare(coverage: pd.DataFrame, expected: dict[str, Expected]) -> pd.DataFrame:
    """Add the paper's counts to the coverage table, and a remark where ours differ.

    New columns: expected_with_sound, tolerance (missing where the config has none) and remark,
    such as "with_video -7.4%, with_sound -8.1%": counts that differ by more than the tolerance.
    """
    known = [expected.get(split) for split in coverage["split"]]
    remarks = []
    for row, official in zip(coverage.to_dict("records"), known, strict=True):
        parts = []
        if official is not None:
            for count, field in _COUNTED.items():
                wanted = getattr(official, field)
                share = (row[count] - wanted) / max(wanted, 1) if wanted is not None else 0.0
                if abs(share) > official.tolerance:
                    parts.append(f"{count} {share:+.1%}")
        remarks.append(", ".join(parts))
    sound = [official.with_sound if official else None for official in known]
    tolerance = [official.tolerance if official else None for official in known]
    return coverage.assign(
        expected_with_sound=pd.array(sound, dtype="Int64"),
        tolerance=pd.array(tolerance, dtype="Float64"),
        remark=remarks,
    )
