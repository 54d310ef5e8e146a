"""The published numbers, `experiments/paper.tsv`: read and checked line by line.

Columns: table, row, label, dataset, protocol, metric, value, source, note. Values stand as they
are printed (recalls, accuracies and caption scores in percent); oddities of the print are notes.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from clip4vla.errors import UserError

COLUMNS = ("table", "row", "label", "dataset", "protocol", "metric", "value", "source", "note")


@dataclass(frozen=True)
class Published:
    """One printed number."""

    table: str
    row: str
    label: str
    dataset: str
    protocol: str
    metric: str
    value: float
    source: str
    note: str


def read_paper(path: str | Path) -> list[Published]:
    """All published numbers, in the file's order. Raises UserError with file:line."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise UserError(f"{path}:1: the header must be {' '.join(COLUMNS)}, separated by tabs")
    numbers: list[Published] = []
    first_line: dict[tuple[str, ...], int] = {}
    labels: dict[tuple[str, str], str] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}:{number}"
        entry = _parse(line, where)
        key = (entry.table, entry.row, entry.dataset, entry.metric)
        if key in first_line:
            raise UserError(
                f"{where}: {' '.join(key)} stands in line {first_line[key]} already; keep one"
            )
        first_line[key] = number
        label = labels.setdefault((entry.table, entry.row), entry.label)
        if label != entry.label:
            raise UserError(
                f"{where}: row {entry.row} is labelled {label!r} above and {entry.label!r} here; "
                "use one label"
            )
        numbers.append(entry)
    return numbers


def _parse(line: str, where: str) -> Published:
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise UserError(
            f"{where}: {len(fields)} fields instead of {len(COLUMNS)}; separate them by single tabs"
        )
    named = dict(zip(COLUMNS, fields, strict=True))
    for name, text in named.items():
        if name != "note" and not text.strip():
            raise UserError(f"{where}: {name} is empty; fill it in")
    try:
        value = float(named["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: value {named['value']!r} is not a number; write it as printed")
    return Published(**{**named, "value": value})
