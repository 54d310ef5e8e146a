"""The child process of a live run: `python -m clip4vla.tracking.feed`, told what to do on stdin.

The first line is a Spec; then {"saved": BYTES} while the stage runs, and {"end": HOW} last. Only
rows of the curve that are in a checkpoint are sent, so that nothing sent is ever taken back by a
resume; where the run is beyond that is shown under progress/. Metrics keep the times that stand in
metrics.jsonl: sent twice, they are there once. While the server is away the files are the buffer.
When the pipe ends, however the stage died, the child ends within a bounded time.
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

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import read_json, write_json
from clip4vla.common.log import log
from clip4vla.tracking.content import Contradiction, Stage, joined, log_params, log_points, set_tags
from clip4vla.tracking.context import read_run_id, write_run_id
from clip4vla.tracking.curve import read_curve
from clip4vla.tracking.live import Spec
from clip4vla.tracking.record import read_record
from clip4vla.tracking.server import explained
from clip4vla.tracking.store import PARENT, Store
from clip4vla.tracking.sync import COMPLETE, SyncReport, bring

PAUSE = (1.0, 30.0)  # seconds between looks at the files, and the longest while the server is away
SENT = "mlflow_sent.json"
STATUS = {"failed": "FAILED", "stopped": "SCHEDULED", "lost": "KILLED"}
MARGIN = 0.85  # of the time that the stage gives it: the child ends before it is killed


class Inbox(threading.Thread):
    """Reads what the stage says. At the end of the pipe the clock starts to run."""

    def __init__(self, patience: tuple[float, float]):
        super().__init__(daemon=True)
        self.patience = patience
        self.first: int | None = None  # what this attempt goes on from
        self.saved: int | None = None
        self.end: str | None = None
        self.record: Path | None = None
        self.changed = threading.Event()
        self.late: Callable[[], None] = lambda: None  # called when the time at the end is up

    def run(self) -> None:
        """Until the pipe ends."""
        for line in sys.stdin:
            with contextlib.suppress(ValueError):  # half a line of a stage that was killed
                self._hear(json.loads(line))
            self.changed.set()
        self.end = self.end or "lost"
        limit = MARGIN * self.patience[bool(self.record)]
        self.changed.set()
        time.sleep(limit)
        self.late()
        os._exit(1)

    def _hear(self, message: dict) -> None:
        if self.end is None:
            self.saved = message.get("saved", self.saved)
            self.first = self.saved if self.first is None else self.first
            self.record = Path(message["record"]) if "record" in message else None
            self.end = message.get("end")  # last: the other thread goes by it


class Feeder:
    """Brings one run to the server and keeps it up to date."""

    def __init__(self, spec: Spec, inbox: Inbox):
        self.spec, self.inbox = spec, inbox
        self.store: Store | None = None
        self.run = None
        self.begun = self.sent = 0  # bytes of the curve that may be there, and that are
        self.goes_on = False
        self.sampler = None
        self.warned = False

    def feed(self) -> None:
        """Until the stage has ended."""
        pause = PAUSE[0]
        while True:
            ended = self.inbox.end  # looked at first: what came before it is sent below
            self.inbox.changed.clear()
            pause = PAUSE[0] if self.step(ended) else min(2 * pause, PAUSE[1])
            if ended:
                return
            self._wait(pause)

    def step(self, ended: str | None) -> bool:
        """Send what there is to send. Nothing that goes wrong here goes any further: False."""
        try:
            self._once()
            if ended:
                self._close(ended)
        except Exception as error:
            self._warn(error)
            self.store = None  # and a new start with the next step
            return False
        return True

    def _wait(self, pause: float) -> None:
        """Samples go on while the server is away."""
        deadline = time.monotonic() + pause
        while self.inbox.end is None and (left := deadline - time.monotonic()) > 0:
            self.inbox.changed.wait(min(left, PAUSE[0]))
            self.inbox.changed.clear()
            if self.sampler is not None:
                self.sampler.sample()

    def _once(self) -> None:
        if self.sampler is None:
            from clip4vla.tracking.system import Sampler

            self.sampler = Sampler(self.spec.seconds, self.spec.curve, self.spec.pid)
        self.sampler.sample()
        if self.store is None:
            self.store = Store(self.spec.target, retries=0)
            self.run = None
        if self.run is None:
            self._open()
        self._send_curve()
        self._send_samples()

    def _open(self) -> None:
        """The run that an earlier attempt began, else a new one."""
        spec, store = self.spec, self.store
        state = spec.context.state
        run_id, sent = read_run_id(state), self._read_sent()
        run = store.get(run_id) if run_id else None
        if run is None or not self._is_ours(run):
            identity = {"run_key": spec.key, "stage": spec.kind}
            made = store.create(spec.kind, spec.context.name, {**identity, **spec.tags})
            write_run_id(state, made)
            for other in store.runs_of(spec.kind, spec.key):  # begun, but its id was lost
                if other.info.run_id != made and COMPLETE not in other.data.tags:
                    store.delete(other)
            run = store.get(made)
        else:
            store.client.update_run(run.info.run_id, status="RUNNING", name=spec.context.name)
        self._describe(run)
        self.run = run
        known = sent.get("run_id") == run.info.run_id
        self.begun, self.sent = (sent["begun"], sent["done"]) if known else (0, 0)

    def _is_ours(self, run) -> bool:
        tags = run.data.tags
        same = tags.get("run_key") == self.spec.key and tags.get("stage") == self.spec.kind
        return same and COMPLETE not in tags

    def _describe(self, run) -> None:
        spec, store = self.spec, self.store
        tags = {**spec.context.tags, **spec.tags}
        for name in ("hosts", "slurm_job_ids"):
            tags |= joined(name, run.data.tags.get(name, ""), spec.tags.get(name, ""))
        if spec.context.row:
            row = {name: tags[name] for name in ("table", "row") if name in tags}
            tags[PARENT] = store.row(spec.kind, spec.context.row, row)
        set_tags(store, run, tags)
        with contextlib.suppress(Contradiction):  # `clip4vla sync` replaces such a run
            log_params(store, run.info.run_id, spec.params)

    def _send_curve(self) -> None:
        safe = self.inbox.saved
        if self.spec.curve is None or safe is None:
            return  # the stage has not looked yet which checkpoint it goes on from
        if not self.goes_on and self.inbox.first < self.begun:
            self.store.delete(self.run)  # its checkpoint was lost: what was sent is trained again
            self._open()
        self.goes_on = True
        if safe <= self.sent:
            return
        points = [
            (name, value, row.step, row.timestamp_ms)
            for row in read_curve(self.spec.curve, self.sent, safe)
            for name, value in row.values.items()
        ]
        self._note(begun=safe)
        log_points(self.store, self.run.info.run_id, points)
        self._note(done=safe)

    def _note(self, begun: int | None = None, done: int | None = None) -> None:
        """How much the server may have, noted before it is sent, and how much it has."""
        self.begun = self.begun if begun is None else begun
        self.sent = self.sent if done is None else done
        noted = {"run_id": self.run.info.run_id, "begun": self.begun, "done": self.sent}
        write_json(self.spec.context.state / SENT, noted)

    def _send_samples(self) -> None:
        """Samples of the machine, by seconds since the run began."""
        waiting = list(self.sampler.waiting)
        points = [
            (name, value, max(0, (at - self.run.info.start_time) // 1000), at)
            for at, values in waiting
            for name, value in values.items()
        ]
        log_points(self.store, self.run.info.run_id, points)
        for _ in waiting:
            self.sampler.waiting.popleft()

    def _close(self, end: str) -> None:
        if self.inbox.record is not None:
            record, digest = read_record(self.inbox.record)
            report = SyncReport(runs=self.store.inputs(record.inputs))
            bring(self.store, Stage(self.inbox.record, record, digest, self.spec.context), report)
        else:
            self.store.client.set_terminated(self.run.info.run_id, STATUS[end])

    def _read_sent(self) -> dict:
        try:
            return read_json(self.spec.context.state / SENT)
        except (OSError, ValueError):
            return {}

    def late(self) -> None:
        """The server has not answered within the time at the end."""
        self._warn(TimeoutError("timed out"))

    def _warn(self, error: Exception) -> None:
        if self.warned:
            return
        self.warned = True
        known = type(error).__module__.startswith(("mlflow", "requests", "urllib3"))
        if known or isinstance(error, (UserError, RetryLater, TimeoutError)):
            text = str(explained(self.spec.target.uri, error))
        else:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        log.warning(f"not in MLflow for now: {text}")


def main() -> None:
    """Entry point of the child."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # the stage tells its end itself
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    spec = Spec.from_json(sys.stdin.readline())
    inbox = Inbox(spec.patience)
    inbox.start()
    feeder = Feeder(spec, inbox)
    inbox.late = feeder.late
    with spec.target.claim("live", spec.kind, spec.key):  # an earlier attempt's child may linger
        feeder.feed()
    sys.stderr.flush()
    os._exit(0)  # requests that hang in threads of libraries hold nobody up


if __name__ == "__main__":
    main()
