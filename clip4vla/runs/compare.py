"""Two finished evaluations side by side."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.metrics.intervals import PAIRED_RULE
from clip4vla.results.metrics_file import check_key, read_metrics
from clip4vla.runs.paired import Comparison, compare_runs


def compare(first: str, second: str) -> Comparison:
    """The paired test of two evaluations, each a run key or a folder. UserError: why not."""
    folders = _folder(first), _folder(second)
    for folder, key in zip(folders, (first, second), strict=True):
        if (path := folder / "metrics.json").is_file():
            found = read_metrics(path)  # checks the file
            if folder == Path(layout.result_dir(key)):
                check_key(path, found, key)
    return compare_runs(*folders)


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything, with names."""
    differences = {name: value._asdict() for name, value in found.differences.items()}
    return found._asdict() | {"differences": differences, "rule": PAIRED_RULE}


def show(found: Comparison) -> str:
    """Lines for a terminal."""
    lines = [
        f"{found.dataset}, protocol {found.protocol}: {found.n_queries} rows of {found.n_clips} "
        f"clips, ids sha256 {found.ids_sha256[:12]}",
        f"{'metric':12}{'first':>9}{'second':>9}{'second - first':>16}{'interval':>20}{'p':>9}",
    ]
    for name, x in found.differences.items():
        low, high = x.interval
        lines.append(
            f"{name:12}{x.first:9.2f}{x.second:9.2f}{x.difference:+16.2f}"
            f"{f'{low:+.2f} to {high:+.2f}':>20}{x.p:9.4f}"
        )
    return "\n".join([*lines, f"{PAIRED_RULE}. One test a metric: p is not corrected for many."])


def _folder(key: str) -> Path:
    for folder in (Path(layout.result_dir(key)), Path(key)):
        if folder.is_dir():
            return folder
    raise UserError(f"{key}: no finished evaluation; `clip4vla runs ls` lists them")
