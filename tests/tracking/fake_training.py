"""A training without a model: rows, checkpoints and an end, reported to a live tracker.

As a program it is a stage in a process of its own: fake_training.py FOLDER URI KEY HOW.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from clip4vla.common.errors import RetryLater
from clip4vla.tracking import Context, Target, sync, write_record
from clip4vla.tracking.live import Spec, live
from clip4vla.tracking.live_worker import Inbox, LiveWorker

PARAMS = {"seed": "0", "optimiser.lr": "0.001", "cache.frames.jpeg_quality": "90"}
PATIENCE = (300.0, 300.0)  # a machine that does other things beside
TIMES = 1_700_000_000_000


class Training:
    """The files of one run, below one folder, as a stage leaves them."""

    def __init__(self, folder: Path, uri: str, key: str = "0123456789ab", seed: int = 0):
        self.key, self.folder = key, folder
        self.state, self.out = folder / "runs" / key, folder / "results" / key
        self.out.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        self.curve = self.state / "metrics.jsonl"
        self.curve.touch()
        self.attempt = 0
        artifacts = folder / "artifacts" if uri.startswith("sqlite") else None
        self.target = Target(uri, "test", folder / "locks", artifacts, f"w-{folder.name}")
        tags = {"table": "table5", "row": "inter", "seed": str(seed), "dataset": "msrvtt"}
        rows = ("table5/inter/msrvtt",)
        self.context = Context(f"table5/inter/msrvtt/s{seed}", tags, rows, self.state)

    def spec(self) -> Spec:
        tags = {"hosts": f"node{self.attempt}", "git_sha": "abc"}
        return Spec(
            target=self.target,
            kind="finetune",
            key=self.key,
            context=self.context,
            params=PARAMS,
            tags=tags,
            curve=self.curve,
            seconds=1.0,
            patience=PATIENCE,
        )

    def live(self):
        """The tracker of a stage, with a child process of its own."""
        return live(self.spec())

    def worker(self, saved: int) -> LiveWorker:
        """A worker to be run step by step in this process, for an attempt that resumes there."""
        inbox = Inbox(PATIENCE)
        inbox.first = inbox.saved = saved
        return LiveWorker(self.spec(), inbox)

    def rows(self, first: int, last: int) -> int:
        """Append rows of these steps; the length of the file."""
        with open(self.curve, "a") as stream:
            for step in range(first, last + 1):
                at = TIMES + 1000 * step + self.attempt  # trained again: another time
                row = {"step": step, "epoch": 1, "timestamp_ms": at, "train/loss": 1 / step}
                stream.write(json.dumps(row) + "\n")
        return self.curve.stat().st_size

    def cut(self, length: int) -> None:
        """What a resume does to the curve."""
        with open(self.curve, "r+") as stream:
            stream.truncate(length)
        self.attempt += 1

    def record(self) -> Path:
        """The outputs of the finished stage."""
        rows = [json.loads(line) for line in self.curve.read_text().splitlines()]
        for row in rows:
            del row["timestamp_ms"]
        (self.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.out / "model.safetensors").write_bytes(b"weights")
        (self.out / "train.json").write_text("{}")
        counts = {"planned": 10, "usable": 9, "silent": 2}
        data = {"name": "msrvtt-v1-0a1b2c/train", "digest": "0" * 32, "context": "train"}
        write_record(
            self.out / "record.json",
            kind="finetune",
            key=self.key,
            name=f"finetune {self.key}",
            params=PARAMS,
            tags={"data_version": "msrvtt-v1-0a1b2c", "coverage": "9 of 10"},
            metrics={"best/t2v_R1": 5.0},
            curve=self.out / "metrics.jsonl",
            artifacts=[self.out / "train.json"],
            model=self.out / "model.safetensors",
            datasets=[{**data, "source": "manifest.json", **counts}],
        )
        return self.out / "record.json"


def steps_of(client, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def expected(last: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in range(1, last + 1)]


def until(holds, what: str, seconds: float = 240.0):
    """Wait for something that a child process does in its own time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.2)
    return found


def defer(training: Training) -> None:
    """A whole training, and then its replay."""
    if training.curve.stat().st_size == 0:
        training.rows(1, 12)
    sync([training.record()], training.target, {training.key: training.context})


def main() -> None:
    folder, uri, key, how = Path(sys.argv[1]), *sys.argv[2:5]
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    training = Training(folder, uri, key, seed)
    if how == "deferred":
        defer(training)
        return
    try:
        with training.live() as tracker:
            tracker.saved(0)
            tracker.saved(training.rows(1, 5))
            if how in ("killed", "stopped"):
                training.rows(6, 9)  # beyond the checkpoint
                sent = training.state / "mlflow_sent.json"
                until(lambda: sent.exists() and json.loads(sent.read_text())["done"], "sent")
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RetryLater("stopped")
            tracker.saved(training.rows(6, 12))
            tracker.finished(training.record())
    except RetryLater:
        raise SystemExit(75) from None


if __name__ == "__main__":
    main()
