"""The training curve: metrics.jsonl, one JSON object a line, cut back when a run resumes."""

import json
import os
import time
from pathlib import Path

from clip4vla.common.files import canonical_json, write_text
from clip4vla.common.log import log


class Curve:
    """A file to which rows are appended, after it is cut back to its first `length` bytes.

    Rows after the last checkpoint belong to steps that will be trained again. If the file is
    shorter than `length`, only points of a plot are lost, so this is a warning.

    Rows hold `step`, `epoch` (from 1), `timestamp_ms` and values named `train/...`, `val/...` or
    `test/...` (the split that selects), `speed/...` (values that differ between machines and
    attempts).
    """

    def __init__(self, path: Path, length: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        present = path.stat().st_size if path.exists() else 0
        if present < length:
            log.warning(
                f"{path}: shorter than at its checkpoint ({present} < {length} bytes): the curve "
                "lacks some points; the training is not affected"
            )
            content = path.read_bytes() if present else b""
            length = content.rfind(b"\n") + 1  # without an incomplete row
        self.path = path
        self.stream = open(path, "ab")  # noqa: SIM115
        self.stream.truncate(length)
        self.stream.seek(length)  # truncating does not move it, and `sync` returns the position

    def add(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one row."""
        row = {"step": step, "epoch": epoch, "timestamp_ms": int(time.time() * 1000), **values}
        self.stream.write((canonical_json(row) + "\n").encode())
        self.stream.flush()  # a tracker may be reading along

    def sync(self) -> int:
        """Flush the rows to disk; return the length of the file."""
        os.fsync(self.stream.fileno())
        return self.stream.tell()


def publish_curve(source: Path, target: Path) -> None:
    """Copy a curve without times of day and speeds: equal runs give equal bytes."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in row.items() if not _volatile(name)} for row in rows]
    write_text(target, "".join(canonical_json(row) + "\n" for row in kept))


def _volatile(name: str) -> bool:
    return name == "timestamp_ms" or name.startswith("speed/")
