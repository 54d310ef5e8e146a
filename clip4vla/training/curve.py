"""The training curve: metrics.jsonl, one JSON object a line, cut back when a run resumes."""

import json
import os
import sys
import time
from pathlib import Path

from clip4vla.common.files import canonical_json, write_text


class Curve:
    """Appends rows to `path`; the first `length` bytes are kept, what follows is thrown away.

    A file that is shorter loses nothing but points of a plot: a line on stderr says so.

    Rows hold `step`, `epoch` (from 1), `timestamp_ms` and values named `train/...`, `val/...` or
    `speed/...` (what differs from one machine and attempt to the next).
    Rows behind the last checkpoint belong to steps that will be trained again.
    """

    def __init__(self, path: Path, length: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        present = path.stat().st_size if path.exists() else 0
        if present < length:
            print(
                f"{path}: shorter than its checkpoint says ({present} < {length} bytes); going on: "
                "the curve lacks some points, the training nothing",
                file=sys.stderr,
                flush=True,
            )
            whole = path.read_bytes() if present else b""
            length = whole.rfind(b"\n") + 1  # without half a row
        self.path = path
        self.stream = open(path, "ab")  # noqa: SIM115
        self.stream.truncate(length)
        self.stream.seek(length)  # truncating does not move it, and `sync` tells where it is

    def add(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one row."""
        row = {"step": step, "epoch": epoch, "timestamp_ms": int(time.time() * 1000), **values}
        self.stream.write((canonical_json(row) + "\n").encode())
        self.stream.flush()  # a tracker may be reading along

    def sync(self) -> int:
        """Bring the rows to disk and return the length of the file."""
        os.fsync(self.stream.fileno())
        return self.stream.tell()


def publish_curve(source: Path, target: Path) -> None:
    """Copy a curve without times of day and speeds: equal runs give equal bytes."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in row.items() if not _volatile(name)} for row in rows]
    write_text(target, "".join(canonical_json(row) + "\n" for row in kept))


def _volatile(name: str) -> bool:
    return name == "timestamp_ms" or name.startswith("speed/")
