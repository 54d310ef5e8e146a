"""Reading a training curve, `metrics.jsonl`, for MLflow and for figures."""

import json
from collections.abc import Iterator
from pathlib import Path

from clip4vla.errors import UserError

NOT_METRICS = ("step", "epoch", "timestamp_ms")


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values by name) of every line.

    A line is `{"step": int, "epoch": int, "timestamp_ms"?: int, <name>: number, ...}`; the numbers
    may also stand together under `metrics`. Raises UserError with file:line.
    """
    path = Path(path)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            values = dict(entry.pop("metrics", {}))
            values |= {name: value for name, value in entry.items() if name not in NOT_METRICS}
            row = int(entry["step"]), {name: float(value) for name, value in values.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not a line of metrics ({type(error).__name__}: {error}); "
                "run the training again"
            ) from None
        yield row
