"""The published numbers, `experiments/paper.tsv`: read and checked line by line.

Columns: table, row, label, dataset, protocol, metric, value, source, note. Values are as printed
(recalls, accuracies and caption scores in percent); misprints and the like are notes. A number that
is known to be published, but not to us, has `not available to us` in place of its value.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.base import NAME
from clip4vla.config.metrics import every_metric, is_cost, metric_of

NOT_AVAILABLE = "not available to us"
COLUMNS = ("table", "row", "label", "dataset", "protocol", "metric", "value", "source", "note")


@dataclass(frozen=True)
class Published:
    """One published number; value: None where it is not available to us."""

    table: str
    row: str
    label: str
    dataset: str
    protocol: str
    metric: str
    value: float | None
    source: str
    note: str
    line: int


def read_paper(path: str | Path) -> list[Published]:
    """Read all published numbers, in the file's order. Raises UserError with file:line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}. Fix: correct `paper` in the config") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8. Fix: save it as UTF-8") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        header = " ".join(COLUMNS)
        raise UserError(f"{path}:1: wrong header. Fix: write {header}, separated by tabs")
    numbers: list[Published] = []
    first_line: dict[tuple[str, ...], int] = {}
    labels: dict[tuple[str, str], str] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}:{number}"
        entry = _parse(line, number, where)
        key = (entry.table, entry.row, entry.dataset, entry.metric)
        if key in first_line:
            raise UserError(
                f"{where}: {' '.join(key)} is in line {first_line[key]} already. Fix: keep one"
            )
        first_line[key] = number
        label = labels.setdefault((entry.table, entry.row), entry.label)
        if label != entry.label:
            raise UserError(
                f"{where}: row {entry.row} is labelled {label!r} above and {entry.label!r} "
                "here. Fix: use one label"
            )
        numbers.append(entry)
    return numbers


def _parse(line: str, number: int, where: str) -> Published:
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise UserError(
            f"{where}: {len(fields)} fields instead of {len(COLUMNS)}. Fix: separate them by "
            "single tabs"
        )
    named = dict(zip(COLUMNS, fields, strict=True))
    for name, text in named.items():
        if name != "note" and not text.strip():
            raise UserError(f"{where}: {name} is empty. Fix: fill it in")
    value = _value(named["value"], where)
    for name in ("table", "row", "dataset"):  # parts of the names of numbers.tex
        if not re.fullmatch(NAME, named[name]):
            raise UserError(
                f"{where}: {name} {named[name]!r} is not a valid name. Fix: begin with a letter, "
                "and use only a-z, 0-9 and _"
            )
    _check_metric(named["metric"], value, where)
    return Published(
        table=named["table"],
        row=named["row"],
        label=named["label"],
        dataset=named["dataset"],
        protocol=named["protocol"],
        metric=named["metric"],
        value=value,
        source=named["source"],
        note=named["note"],
        line=number,
    )


def _value(text: str, where: str) -> float | None:
    """Return a value as printed; None where it is not available to us."""
    if text == NOT_AVAILABLE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{where}: value {text!r} is not a number. Fix: write 46.2, or {NOT_AVAILABLE!r}"
        )
    return value


def _check_metric(metric: str, value: float | None, where: str) -> None:
    """Raise UserError for an unknown metric, and for a value out of its range."""
    known = every_metric()
    if metric not in known and not is_cost(metric):
        raise UserError(f"{where}: no metric {metric!r}{did_you_mean(metric, known)}")
    low, high = metric_of(metric).low, metric_of(metric).high
    if value is not None and not low <= value <= high:
        unit = "a percentage" if high == 100 else "a number"
        raise UserError(
            f"{where}: {metric} is {value:g}. Fix: write {unit} from {low:g} to {high:g}"
        )
