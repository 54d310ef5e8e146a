"""A live run, seen from the stage that runs: a child process does the talking to the server.

The child (`clip4vla.tracking.feed`) reads the run's own files; the stage only tells it, over a
pipe that never blocks, how much of the curve is safe and how it ended. Neither a slow nor a dead
server can slow a training down, and the child's end costs it a bounded time.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clip4vla.common.errors import RetryLater
from clip4vla.common.log import log
from clip4vla.tracking.context import Context, Target
from clip4vla.tracking.sink import Sink

CHILD = [sys.executable, "-m", "clip4vla.tracking.feed"]
PATIENCE = (15.0, 90.0)  # seconds for the rest of a curve; to complete a finished run, with files


@dataclass(frozen=True)
class Spec:
    """What the child must know; travels as JSON."""

    target: Target
    kind: str
    key: str
    context: Context
    params: dict[str, str]
    tags: dict[str, str]
    curve: Path | None
    seconds: float
    patience: tuple[float, float] = PATIENCE
    pid: int = field(default_factory=os.getpid)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """The same again."""
        value = json.loads(text)
        target, context = value.pop("target"), value.pop("context")
        for place, name in (
            (target, "locks"),
            (target, "artifacts"),
            (context, "state"),
            (value, "curve"),
        ):
            place[name] = Path(place[name]) if place[name] is not None else None
        return cls(target=Target(**target), context=Context(**context), **value)


class LiveSink(Sink):
    """The stage's end of the pipe."""

    def __init__(self, spec: Spec):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.patience, self.long_patience = spec.patience
        # A session of its own: Ctrl-C in the terminal is for the stage, which then tells its end.
        self.child = subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        os.set_blocking(self.child.stdin.fileno(), False)
        self._tell(spec.to_json())

    def saved(self, curve_bytes: int) -> None:
        """See Sink."""
        self._tell(json.dumps({"saved": curve_bytes}))

    def finished(self, record: Path) -> None:
        """See Sink."""
        self.patience = self.long_patience
        self._tell(json.dumps({"end": "finished", "record": str(record)}))

    def close(self, end: str) -> None:
        """Let the child bring its work to an end, for a bounded time."""
        self._tell(json.dumps({"end": end}))
        self.child.stdin.close()
        try:
            self.child.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _tell(self, line: str) -> None:
        # A child that hangs or has died is nothing to wait for: `clip4vla sync` delivers it all.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.child.stdin.fileno(), (line + "\n").encode())


@contextlib.contextmanager
def live(spec: Spec) -> Iterator[Sink]:
    """Feed a server while the block runs."""
    try:
        sink, end = LiveSink(spec), "failed"
    except OSError as error:  # no memory for another process
        log.warning(f"not live in MLflow: {error}")
        yield Sink()
        return
    try:
        yield sink
        end = "stopped"  # without a record: another rank writes it, or nothing was to do
    except RetryLater:
        end = "stopped"
        raise
    finally:
        sink.close(end)


def describe(tags: dict[str, Any]) -> dict[str, str]:
    """Facts of `clip4vla.common.provenance` as tags of a live run."""
    named = {
        "hosts": tags.get("host"),
        "slurm_job_ids": tags.get("slurm_job_id"),
        "git_sha": tags.get("git_sha"),
        "git_dirty": str(tags["git_dirty"]).lower() if "git_dirty" in tags else None,
        "mlflow.user": tags.get("user"),
        "mlflow.source.git.commit": tags.get("git_sha"),
    }
    return {name: str(value) for name, value in named.items() if value}
