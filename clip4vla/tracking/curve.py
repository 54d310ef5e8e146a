"""Read training curves, `metrics.jsonl`, for MLflow and for figures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.errors import UserError

NOT_METRICS = ("step", "epoch", "timestamp_ms")
TAIL = 65536  # bytes: more than a few rows


@dataclass(frozen=True)
class CurveRow:
    """The values of one step.

    timestamp_ms: None in published curves; end: the byte after the line.
    """

    step: int
    values: dict[str, float]
    timestamp_ms: int | None
    end: int


def read_curve(path: str | Path, start: int = 0, stop: int | None = None) -> Iterator[CurveRow]:
    """Yield the rows between two bytes of the file, which must be at ends of lines.

    A line is `{"step": int, "epoch": int, "timestamp_ms"?: int, <name>: number, ...}`; the numbers
    may also be nested under `metrics`. Raises UserError with file:line (counted from start).
    """
    path = Path(path)
    with open(path, "rb") as stream:
        stream.seek(start)
        number = 0
        while stop is None or stream.tell() < stop:
            line = stream.readline()
            if not line:
                return
            number += 1
            try:
                yield _row(line, stream.tell())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}:{number}: invalid line of metrics ({type(error).__name__}: {error}). "
                    "Fix: run the training again"
                ) from None


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield (step, values by name) of every line."""
    return ((row.step, row.values) for row in read_curve(path))


def last_row(path: Path) -> CurveRow | None:
    """Return the last complete line of a curve that is being written; None without one."""
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL))
            lines = stream.read().split(b"\n")
        return _row(lines[-2], size)
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return None


def _row(line: bytes, end: int) -> CurveRow:
    entry = json.loads(line)
    values = dict(entry.pop("metrics", {}))
    values |= {name: value for name, value in entry.items() if name not in NOT_METRICS}
    numbers = {name: float(value) for name, value in values.items()}
    return CurveRow(int(entry["step"]), numbers, entry.get("timestamp_ms"), end)
