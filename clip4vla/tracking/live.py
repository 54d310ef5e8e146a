"""The stage's side of a live run: a child process sends the run to the MLflow server.

The child (`clip4vla.tracking.live_worker`) reads the run's own files. Over a pipe that never
blocks, the stage only reports how much of the curve is in a checkpoint and how it ended. So a slow
or dead server cannot slow a training down, and waiting for the child takes a bounded time.

MLflow's own asynchronous logging does not serve (measured with 3.17 on 2026-11-30): `import mlflow`
costs a training 1.5 s of CPU beside the 1.5 s of torch; with a server that accepts and never
answers, a process that called `log_batch(..., synchronous=False)` had not ended after 200 s, and
after 13 s with a timeout of 5 s and no retries, which lost the rows; and creating a run waits for
the server in any case.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from clip4vla.common.errors import RetryLater
from clip4vla.common.log import log
from clip4vla.tracking.context import Context, Target
from clip4vla.tracking.tracker import Tracker

CHILD = [sys.executable, "-m", "clip4vla.tracking.live_worker"]
PATIENCE = (15.0, 90.0)  # seconds for the rest of a curve; to complete a finished run, with files


@dataclass(frozen=True)
class Spec:
    """The settings of a child process; they travel as JSON."""

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
        """Return the spec as one line of JSON."""
        return TypeAdapter(Spec).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "Spec":
        """Return the spec of a line of `to_json`."""
        return TypeAdapter(cls).validate_json(text)


class LiveTracker(Tracker):
    """A tracker that passes the reports on to a child process."""

    def __init__(self, spec: Spec):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.patience, self.long_patience = spec.patience
        # In its own session, Ctrl-C in the terminal reaches only the stage, which reports its end.
        self.child = subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        assert self.child.stdin is not None
        self.pipe = self.child.stdin
        os.set_blocking(self.pipe.fileno(), False)
        self._send(spec.to_json())

    def saved(self, curve_bytes: int) -> None:
        """See Tracker."""
        self._send(json.dumps({"saved": curve_bytes}))

    def finished(self, record: Path) -> None:
        """See Tracker."""
        self.patience = self.long_patience
        self._send(json.dumps({"end": "finished", "record": str(record)}))

    def close(self, end: str) -> None:
        """Report how the stage ended, and wait for the child for a bounded time."""
        self._send(json.dumps({"end": end}))
        self.pipe.close()
        try:
            self.child.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _send(self, line: str) -> None:
        # Do not wait for a child that hangs or has died: `clip4vla sync` sends the rest.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.pipe.fileno(), (line + "\n").encode())


@contextlib.contextmanager
def live(spec: Spec) -> Iterator[Tracker]:
    """Send a run to its server while the block runs."""
    try:
        tracker, end = LiveTracker(spec), "failed"
    except OSError as error:  # no memory for another process
        log.warning(f"not live in MLflow: {error}")
        yield Tracker()
        return
    try:
        yield tracker
        end = "stopped"  # without a record: another rank writes it, or nothing was to do
    except RetryLater:
        end = "stopped"
        raise
    finally:
        tracker.close(end)


def describe(provenance: dict[str, Any]) -> dict[str, str]:
    """Return the facts of `clip4vla.common.provenance` as tags of a live run."""
    named = {
        "hosts": provenance.get("host"),
        "slurm_job_ids": provenance.get("slurm_job_id"),
        "git_sha": provenance.get("git_sha"),
        "git_dirty": str(provenance["git_dirty"]).lower() if "git_dirty" in provenance else None,
        "mlflow.user": provenance.get("user"),
        "mlflow.source.git.commit": provenance.get("git_sha"),
    }
    return {name: str(value) for name, value in named.items() if value}
