"""The child process of a live run: `python -m clip4vla.tracking.live_worker`, driven by stdin.

The first line is a Spec. {"saved": BYTES} follows while the stage runs, and {"end": HOW} comes
last. The child sends only those rows of the curve that are in a checkpoint, so that a resume never
takes back rows that were sent. The current step, beyond the checkpoint, is shown under progress/.
Metrics keep their times of metrics.jsonl, so that sending them twice adds nothing. While the server
is away the files are the buffer. When the pipe ends, however the stage died, the child exits within
a bounded time.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import read_json, write_json
from clip4vla.common.log import log
from clip4vla.tracking.context import read_run_id, write_run_id
from clip4vla.tracking.curve import read_curve
from clip4vla.tracking.live import Spec
from clip4vla.tracking.mlflow_run import (
    Contradiction,
    Stage,
    joined,
    send,
)
from clip4vla.tracking.record import read_record
from clip4vla.tracking.server import explained
from clip4vla.tracking.store import COMPLETE, PARENT, Store
from clip4vla.tracking.sync import SyncReport, bring
from clip4vla.tracking.system import Sampler

if TYPE_CHECKING:
    from mlflow.entities import Run

PAUSE = (1.0, 30.0)  # seconds between looks at the files, and the longest while the server is away
LAST_TRIES = 3  # to send the rest, once the stage has ended
SENT = "mlflow_sent.json"
STATUS = {"failed": "FAILED", "stopped": "SCHEDULED", "lost": "KILLED"}
MARGIN = 0.85  # of the time that the stage waits: the child exits before it is killed


class Inbox(threading.Thread):
    """A thread that reads the reports of the stage, and a time limit from the end of the pipe."""

    def __init__(self, patience: tuple[float, float]):
        super().__init__(daemon=True)
        self.patience = patience
        self.first: int | None = None  # bytes of the curve that this attempt resumes from
        self.saved: int | None = None
        self.end: str | None = None
        self.record: Path | None = None
        self.changed = threading.Event()
        self.on_timeout: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Read until the pipe ends; exit the process when the time limit is over."""
        for line in sys.stdin:
            with contextlib.suppress(ValueError):  # an incomplete line of a killed stage
                self._read(json.loads(line))
            self.changed.set()
        self.end = self.end or "lost"
        limit = MARGIN * self.patience[bool(self.record)]
        self.changed.set()
        time.sleep(limit)
        self.on_timeout()
        os._exit(1)

    def _read(self, message: dict[str, Any]) -> None:
        if self.end is None:
            self.saved = message.get("saved", self.saved)
            self.first = self.saved if self.first is None else self.first
            self.record = Path(message["record"]) if "record" in message else None
            self.end = message.get("end")  # last: the other thread checks it first


class LiveWorker:
    """Writer of one live run: creates it on the server and keeps it up to date."""

    def __init__(self, spec: Spec, inbox: Inbox):
        self.spec, self.inbox = spec, inbox
        self.store: Store | None = None
        self.run: Run | None = None
        self.begun = self.sent = 0  # bytes of the curve that may be on the server, and that are
        self.resumed = False
        self.sampler: Sampler | None = None
        self.warned = False

    def work(self) -> None:
        """Send reports until the stage has ended."""
        pause, tries = PAUSE[0], 0
        while True:
            end = self.inbox.end  # read first: all reports before it are sent below
            self.inbox.changed.clear()
            done = self.step(end)
            if end is None:
                pause = PAUSE[0] if done else min(2 * pause, PAUSE[1])
                self._wait(pause)
                continue
            tries += 1
            if done or tries == LAST_TRIES:
                return
            time.sleep(PAUSE[0])

    def step(self, end: str | None) -> bool:
        """Send everything new; on any error warn once and return False.

        end: how the stage ended; None while it runs.
        """
        try:
            self._send_new(end)
        except Exception as error:
            self._warn(error)
            self.store = None  # the next step connects again
            return False
        return True

    def _wait(self, pause: float) -> None:
        """Wait for a report, and keep sampling even while the server is away."""
        deadline = time.monotonic() + pause
        while self.inbox.end is None and (left := deadline - time.monotonic()) > 0:
            self.inbox.changed.wait(min(left, PAUSE[0]))
            self.inbox.changed.clear()
            if self.sampler is not None:
                self.sampler.sample()

    def _send_new(self, end: str | None) -> None:
        if self.sampler is None:
            self.sampler = Sampler(self.spec.seconds, self.spec.curve, self.spec.pid)
        self.sampler.sample()
        if self.store is None:
            self.store, self.run = Store(self.spec.target, retries=0), None
        store = self.store
        if self.run is None:
            self.run = self._open(store)
        self.run = self._send_curve(store, self.run)
        self._send_samples(store, self.run, self.sampler)
        if end:
            self._close(store, self.run, end)

    def _open(self, store: Store) -> "Run":
        """Return the run that an earlier attempt began, else a new one."""
        spec = self.spec
        state = spec.context.state
        run_id, sent = read_run_id(state), self._read_sent()
        run = store.get(run_id) if run_id else None
        if run is None or not self._is_ours(run):
            identity = {"run_key": spec.key, "stage": spec.kind}
            run = store.create(spec.kind, spec.context.name, {**identity, **spec.tags})
            write_run_id(state, run.info.run_id)
            for other in store.runs_of(spec.kind, spec.key):  # begun, but its id was lost
                if other.info.run_id != run.info.run_id and COMPLETE not in other.data.tags:
                    store.delete(other)
        else:
            store.client.update_run(run.info.run_id, status="RUNNING", name=spec.context.name)
        self._describe(store, run)
        noted = sent.get("run_id") == run.info.run_id
        self.begun, self.sent = (sent["begun"], sent["done"]) if noted else (0, 0)
        return run

    def _is_ours(self, run: "Run") -> bool:
        tags = run.data.tags
        same = tags.get("run_key") == self.spec.key and tags.get("stage") == self.spec.kind
        return same and COMPLETE not in tags

    def _describe(self, store: Store, run: "Run") -> None:
        spec = self.spec
        tags = {**spec.context.tags, **spec.tags}
        for name in ("hosts", "slurm_job_ids"):
            tags |= joined(name, run.data.tags.get(name, ""), spec.tags.get(name, ""))
        if spec.context.row:
            tags[PARENT] = store.row(spec.kind, spec.context.row)
        send(store, run, tags=tags)
        with contextlib.suppress(Contradiction):  # `clip4vla sync` replaces such a run
            send(store, run, params=spec.params)

    def _send_curve(self, store: Store, run: "Run") -> "Run":
        """Send the rows that are in a checkpoint; return the run, a new one if it was replaced."""
        curve, saved, first = self.spec.curve, self.inbox.saved, self.inbox.first
        if curve is None or saved is None or first is None:
            return run  # the stage has not reported yet from which checkpoint it resumes
        if not self.resumed and first < self.begun:
            store.delete(run)  # its checkpoint was lost: rows that were sent are trained again
            run = self._open(store)
        self.resumed = True
        if saved <= self.sent:
            return run
        points = [
            (name, value, row.step, row.timestamp_ms)
            for row in read_curve(curve, self.sent, saved)
            if row.timestamp_ms is not None
            for name, value in row.values.items()
        ]
        self._note_sent(run, begun=saved)
        send(store, run, points)
        self._note_sent(run, done=saved)
        return run

    def _note_sent(self, run: "Run", begun: int | None = None, done: int | None = None) -> None:
        """Write down how much the server may have, before sending it, and how much it has."""
        self.begun = self.begun if begun is None else begun
        self.sent = self.sent if done is None else done
        note = {"run_id": run.info.run_id, "begun": self.begun, "done": self.sent}
        if self.spec.context.state is not None:
            write_json(self.spec.context.state / SENT, note)

    def _send_samples(self, store: Store, run: "Run", sampler: Sampler) -> None:
        """Send samples of the machine, by seconds since the run began."""
        waiting = list(sampler.waiting)
        points = [
            (name, value, max(0, (at - run.info.start_time) // 1000), at)
            for at, values in waiting
            for name, value in values.items()
        ]
        send(store, run, points)
        for _ in waiting:
            sampler.waiting.popleft()

    def _close(self, store: Store, run: "Run", end: str) -> None:
        if self.inbox.record is not None:
            record, digest = read_record(self.inbox.record)
            report = SyncReport()
            report.note(store.runs())
            bring(store, Stage(self.inbox.record, record, digest, self.spec.context), report)
        else:
            store.client.set_terminated(run.info.run_id, STATUS[end])

    def _read_sent(self) -> dict[str, Any]:
        if self.spec.context.state is None:
            return {}
        try:
            return read_json(self.spec.context.state / SENT)
        except (OSError, ValueError):
            return {}

    def on_timeout(self) -> None:
        """Warn that the server has not answered within the time limit at the end."""
        self._warn(TimeoutError("timed out"))

    def _warn(self, error: Exception) -> None:
        if self.warned:
            return
        self.warned = True
        foreign = type(error).__module__.startswith(("mlflow", "requests", "urllib3"))
        if foreign or isinstance(error, (UserError, RetryLater, TimeoutError)):
            text = str(explained(self.spec.target.uri, error))
        else:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        log.warning(f"not in MLflow for now: {text}")


def main() -> None:
    """Send one live run, whose Spec is the first line of stdin."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # the stage reports its end
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    spec = Spec.from_json(sys.stdin.readline())
    inbox = Inbox(spec.patience)
    inbox.start()
    worker = LiveWorker(spec, inbox)
    inbox.on_timeout = worker.on_timeout
    with spec.target.claim("live", spec.kind, spec.key):  # an earlier attempt's child may linger
        worker.work()
    sys.stderr.flush()
    os._exit(0)  # do not wait for hanging requests in threads of libraries


if __name__ == "__main__":
    main()
