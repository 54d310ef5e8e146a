"""Comparison of two finished evaluations."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.metrics import metric_of
from clip4vla.metrics.intervals import PAIRED_RULE
from clip4vla.results.metrics_file import check_key, read_metrics
from clip4vla.runs.paired import Comparison, compare_runs


def compare(first: str, second: str) -> Comparison:
    """Run the paired test on two evaluations, each a run key or a folder."""
    one, two = _folder(first), _folder(second)
    for folder, key in ((one, first), (two, second)):
        if (path := folder / "metrics.json").is_file():
            metrics = read_metrics(path)  # checks the file
            if folder == Path(layout.result_dir(key)):
                check_key(path, metrics, key)
    return compare_runs(one, two)


def as_json(result: Comparison) -> dict[str, Any]:
    """Return a comparison with its rule as a JSON object."""
    differences = {name: value._asdict() for name, value in result.differences.items()}
    return result._asdict() | {"differences": differences, "rule": PAIRED_RULE}


def show(result: Comparison) -> str:
    """Return a comparison as lines for a terminal."""
    lines = [
        f"{result.dataset}, protocol {result.protocol}: {result.n_queries} rows of "
        f"{result.n_clips} clips, ids sha256 {result.ids_sha256[:12]}",
        f"{'metric':12}{'first':>9}{'second':>9}{'second - first':>16}{'interval':>20}{'p':>9}",
    ]
    for name, x in result.differences.items():
        low, high = x.interval
        lines.append(
            f"{name:12}{x.first:9.2f}{x.second:9.2f}{x.difference:+16.2f}"
            f"{f'{low:+.2f} to {high:+.2f}':>20}{x.p:9.4f}"
        )
    if lower := [name for name in result.differences if metric_of(name).lower_is_better]:
        lines.append(f"Lower is better: {', '.join(lower)}.")
    return "\n".join([*lines, f"{PAIRED_RULE}. One test a metric: p is not corrected for many."])


def _folder(key: str) -> Path:
    for folder in (Path(layout.result_dir(key)), Path(key)):
        if folder.is_dir():
            return folder
    raise UserError(f"{key}: not a finished evaluation. Fix: give a key of `clip4vla runs ls`")
