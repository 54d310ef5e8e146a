"""The training loop. It knows a task (model + loss) and batches, not what they are about.

A run is a function of its config: the batch of step s is a function of (seed, epoch, position), its
dropout one of (seed, step, rank), and a checkpoint holds model, optimiser and position. So a run
that was killed and resumed ends with the same bits on CPU as one that was not. With several ranks
all of them train the same global batch; the first one writes, validates and reports.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import torch
from torch import Tensor

from clip4vla.common.device import autocast, half_type
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.progress import track
from clip4vla.common.seeds import seed_of
from clip4vla.config.sections import Optimiser
from clip4vla.models.common.task import Task
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.attempts import NotFinite
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.curve import Curve
from clip4vla.training.gradients import backward
from clip4vla.training.meter import Meter
from clip4vla.training.not_finite import dump
from clip4vla.training.optimiser import Updates
from clip4vla.training.ranks import Ranks
from clip4vla.training.selection import Choice
from clip4vla.training.stop import Interrupted, Stop
from clip4vla.training.validation import NoValidation, Validation

T = TypeVar("T")
SAVE_SECONDS = 600.0  # work that a kill can cost, beside the end of each epoch
CURVE_POINTS = 2000  # rows of the training curve, whatever the length of the run


class Batches(Protocol):
    """The batches of every epoch of `samples`: `steps` of `size` each, each in chunks."""

    samples: int
    steps: int
    size: int

    def __call__(self, epoch: int, consumed: int) -> Iterator[list[dict]]:
        """Batches of epoch `epoch` (from 0) behind the first `consumed` samples."""


@dataclass
class Trainer:
    """One run: what it trains, on what, and the folder of its state."""

    task: Task
    batches: Batches
    config: Optimiser
    checkpoints: Checkpoints
    folder: Path
    device: torch.device
    validation: Validation = field(default_factory=NoValidation)
    seed: int = 0
    choice: Choice = Choice()
    save_seconds: float = SAVE_SECONDS
    ranks: Ranks = Ranks()
    state: TrainState = field(default_factory=TrainState)
    meter: Meter = field(default_factory=Meter)
    sink: Tracker = field(default_factory=Tracker)
    latest: dict[str, Tensor | float] = field(default_factory=dict)  # of the last step

    def run(self, stop: Stop) -> None:
        """Train to the end and leave the selected weights in the model.

        `state` and `meter` go along. Raises RetryLater, after saving, when `stop` of any rank asks
        for it; NotFinite when the loss or a gradient is NaN or infinite.
        """
        self.total = self.config.epochs * self.batches.steps
        half = half_type(self.device) is torch.float16
        self.updates = Updates(self.task.model, self.config, self.total, self.task.heads, half)
        self._resume()
        self.saved_at = time.monotonic()
        while self.state.epoch < self.config.epochs:
            self._train_epoch(stop)
            self._end_epoch(stop)
            self._save()
            if self.ranks.any(stop.requested)[0] and self.state.epoch < self.config.epochs:
                self._leave(stop)
        self.updates.keep_average()
        if self.choice.selects and self.ranks.leads:
            best = self.state.best_epoch
            assert best is not None, "the last epoch is scored"
            self.checkpoints.load_best(best, self.task.model)

    def _resume(self) -> None:
        """Go on from the checkpoint that the first rank finds whole; the others load the same."""
        checkpoints, model = self.checkpoints, self.task.model
        loaded = checkpoints.load(model, self.updates) if self.ranks.leads else None
        step = self.ranks.from_leader(loaded and loaded.step)
        if step is not None and not self.ranks.leads:
            loaded = checkpoints.load(model, self.updates, step)
        # All wait for all: the first rank removes these files, at once if no step is left to do.
        if self.ranks.any(step is not None and loaded is None)[0]:
            raise UserError(
                f"{checkpoints.folder}: the first rank reads its checkpoint of step {step}, "
                "another does not; the folder must be one that all nodes share"
            )
        if loaded is not None:
            vars(self.state).update(vars(loaded))
        self.meter.resumed = self.meter.saved = self.state.step
        if self.ranks.leads:
            self.curve = Curve(self.folder / "metrics.jsonl", self.state.curve_bytes)
            self.state.curve_bytes = self.curve.sync()
            self.sink.saved(self.state.curve_bytes)

    def _train_epoch(self, stop: Stop) -> None:
        state = self.state
        self.task.model.train()
        batches = self.meter.reading(self.batches(state.epoch, state.consumed))
        left = self.batches.steps - state.consumed // self.batches.size
        if self.ranks.leads:
            batches = track(batches, self._where(), left, self._status)
        for chunks in batches:
            self._step(chunks)
            self.meter.step(self.batches.size)
            chunks.clear()  # else they would be in memory while the next batch is read
            late = self.ranks.leads and time.monotonic() - self.saved_at > self.save_seconds
            leave, save = self.ranks.any(stop.requested, late)
            if leave or save:
                self._save()
            if leave:
                self._leave(stop)

    def _step(self, chunks: list[dict]) -> None:
        state = self.state
        torch.manual_seed(seed_of("dropout", self.seed, state.step, self.ranks.rank))
        loss, terms = backward(self.task, chunks, self.device, self.updates.scaled)
        self.latest = {"loss": loss, **terms}
        if not math.isfinite(loss.item()):
            self._refuse(chunks)
        try:
            measured = self.updates(state.step)
        except FloatingPointError:
            self._refuse(chunks)
        self.latest |= measured
        state.step += 1
        state.consumed += self.batches.size
        state.samples += self.batches.size
        if self.ranks.leads and state.step % max(1, self.total // CURVE_POINTS) == 0:
            values = {f"train/{name}": float(value) for name, value in self.latest.items()}
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self.curve.add(state.step, state.epoch + 1, finite | self.meter.take())

    def _end_epoch(self, stop: Stop) -> None:
        state = self.state
        values: dict[str, float] | None = {}
        if state.epoch + 1 >= self.choice.first:
            with self.updates.averaged():  # what is scored is what is kept
                values = self._validate(stop)
                if values:
                    self._choose(self.validation.selects, values[self.validation.selects])
        if values is None:  # interrupted; validation changed nothing: it is done again on resume
            self._save()
            self._leave(stop)
        self._report(values)
        state.epoch += 1
        state.consumed = 0

    def _choose(self, metric: str, value: float) -> None:
        state = self.state
        state.last_value = value
        if self.choice.selects and self.choice.prefers(metric, value, state.best_value):
            state.best_epoch, state.best_value = state.epoch + 1, value
            if self.ranks.leads:
                self.checkpoints.save_best(state.best_epoch, self.task.model)

    def _validate(self, stop: Stop) -> dict[str, float] | None:
        """Validation metrics, noted in the curve; None, on all ranks, when one was told to stop.

        Every rank encodes its part of the clips; the first one scores all of them.
        """
        self.task.model.eval()
        part = self._unless_stopped(stop, self.validation.part)
        if self.ranks.any(part is None)[0] or part is None:
            return None
        parts, values = self.ranks.all(part), None
        if self.ranks.leads:
            values = self._unless_stopped(stop, lambda: self.validation.scores(parts))
        values = self.ranks.from_leader(values)
        if values and self.ranks.leads:
            noted = {f"{self.choice.split}/{name}": value for name, value in values.items()}
            self.curve.add(self.state.step, self.state.epoch + 1, noted)
        return values

    def _unless_stopped(self, stop: Stop, work: Callable[[], T]) -> T | None:
        """What `work`, which changes no state, gives; None when it was told to stop."""
        try:
            with stop.interrupting(), torch.no_grad(), autocast(self.device, self.task.model):
                return work()
        except Interrupted:
            return None

    def _save(self) -> None:
        if self.ranks.leads:
            self.state.curve_bytes = self.curve.sync()
            self.checkpoints.save(self.state, self.task.model, self.updates)
            self.sink.saved(self.state.curve_bytes)
        self.ranks.from_leader()  # launchers end the ranks that are still there when one has left
        self.meter.saved = self.state.step
        self.saved_at = time.monotonic()

    def _leave(self, stop: Stop) -> NoReturn:
        done = f"step {self.state.step} of {self.total}"
        why = stop.reason or "another rank was told to"
        raise RetryLater(f"stopped at {done} ({why}), saved; the same command goes on")

    def _where(self) -> str:
        return f"epoch {self.state.epoch + 1}/{self.config.epochs}"

    def _status(self) -> str:
        """What stands behind the bar: speed, data, memory, loss, its terms and the rate."""
        shown = [f"{name} {float(value):.4g}" for name, value in self.latest.items()]
        return f"{self.meter.report(self.meter.whole)}, {' '.join(shown)}"

    def _report(self, values: dict[str, float]) -> None:
        """One line for the log at the end of an epoch. Every rank says how it fared."""
        own = self.meter.whole.wait_share, self.meter.peak_memory
        self.meter.ranks = self.ranks.all([own])
        if self.ranks.leads:
            shown = "".join(f", val/{name} {value:.4g}" for name, value in values.items())
            line = f"{self._where()} done: {self._status()}{shown}"
            print(line, file=sys.stderr, flush=True)

    def _refuse(self, chunks: list[dict]) -> NoReturn:
        """Write down all that can tell why the step is not finite, and stop."""
        state = self.state
        torch.manual_seed(seed_of("dropout", self.seed, state.step, self.ranks.rank))
        where = self.folder / f"not-finite-step-{state.step:06d}"
        found = dump(where, self.task, chunks, self.device, state.step, self.ranks)
        raise NotFinite(
            f"loss or gradient is not finite at step {state.step}: {found}; look at it with "
            f"`clip4vla not-finite {where}`, then leave out a broken clip or lower optimiser.lr"
        )
