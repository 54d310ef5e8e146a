"""The training loop. It knows a task (model and loss) and batches, and nothing of their content.

A run is a function of its config: the batch of step s is a function of (seed, epoch, position), its
dropout one of (seed, step, rank), and a checkpoint holds model, optimiser and position. So on a CPU
a run that was killed and resumed ends with the same bits as one that was not. With several ranks
all of them train the same global batch; the first one writes, validates and reports.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import torch
from torch import Tensor

from clip4vla.common.device import autocast, half_type
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.log import log
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
from clip4vla.training.selection import SelectionRule
from clip4vla.training.stop import Interrupted, Stop
from clip4vla.training.validation import NoValidation, Validation

T = TypeVar("T")
SAVE_SECONDS = 600.0  # between checkpoints within an epoch: the work that a kill can lose
CURVE_POINTS = 2000  # the most rows of the training curve, whatever the length of the run


class Batches(Protocol):
    """The batches of every epoch of `samples`: `steps` of `size` each, each in chunks."""

    samples: int
    steps: int
    size: int

    def __call__(self, epoch: int, consumed: int) -> Iterator[list[dict]]:
        """Yield the batches of an epoch (from 0) after its first `consumed` samples."""


@dataclass
class Trainer:
    """One run: its task, its batches, and the folder of its state."""

    task: Task
    batches: Batches
    config: Optimiser
    checkpoints: Checkpoints
    folder: Path
    device: torch.device
    validation: Validation = field(default_factory=NoValidation)
    seed: int = 0
    selection: SelectionRule = SelectionRule()
    save_seconds: float = SAVE_SECONDS
    ranks: Ranks = Ranks()
    state: TrainState = field(default_factory=TrainState)
    meter: Meter = field(default_factory=Meter)
    tracker: Tracker = field(default_factory=Tracker)
    measured: dict[str, Tensor | float] = field(default_factory=dict)  # in the last step

    def run(self, stop: Stop) -> None:
        """Train to the end and leave the selected weights in the model.

        `state` and `meter` are kept up to date. Raises RetryLater, after saving, when `stop` of any
        rank requests it; NotFinite when the loss or a gradient is NaN or infinite.
        """
        self.total_steps = self.config.epochs * self.batches.steps
        self.updates = Updates(
            self.task.model,
            self.config,
            self.total_steps,
            self.task.heads,
            float16=half_type(self.device) is torch.float16,
        )
        self._resume()
        self.saved_at = time.monotonic()
        while self.state.epoch < self.config.epochs:
            self._train_epoch(stop)
            self._end_epoch(stop)
            self._save()
            if self.ranks.any_rank(stop.requested) and self.state.epoch < self.config.epochs:
                self._stop(stop)
        self.updates.keep_average()
        if self.selection.selects and self.ranks.leads:
            best = self.state.best_epoch
            assert best is not None, "the last epoch is scored"
            self.checkpoints.load_best(best, self.task.model)

    def _resume(self) -> None:
        """Load the newest checkpoint that the first rank can read, on every rank."""
        checkpoints, model = self.checkpoints, self.task.model
        loaded = checkpoints.load(model, self.updates) if self.ranks.leads else None
        step = self.ranks.from_leader(loaded and loaded.step)
        if step is not None and not self.ranks.leads:
            loaded = checkpoints.load(model, self.updates, step)
        # All wait for all: the first rank removes these files, at once if no step is left to do.
        if self.ranks.any_rank(step is not None and loaded is None):
            raise UserError(
                f"{checkpoints.folder}: the first rank reads its checkpoint of step {step}, "
                "another rank does not. Fix: use a folder that all nodes share"
            )
        if loaded is not None:
            vars(self.state).update(vars(loaded))
        self.meter.resumed = self.meter.saved = self.state.step
        if self.ranks.leads:
            self.curve = Curve(self.folder / "metrics.jsonl", self.state.curve_bytes)
            self.state.curve_bytes = self.curve.sync()
            self.tracker.saved(self.state.curve_bytes)

    def _train_epoch(self, stop: Stop) -> None:
        state = self.state
        self.task.model.train()
        batches = self.meter.reading(self.batches(state.epoch, state.consumed))
        steps_left = self.batches.steps - state.consumed // self.batches.size
        if self.ranks.leads:
            later = (self.config.epochs - state.epoch - 1) * self.batches.steps
            batches = track(batches, self._epoch_name(), steps_left, self._status, later=later)
        for chunks in batches:
            self._step(chunks)
            self.meter.step(self.batches.size)
            chunks.clear()  # otherwise they would be in memory while the next batch is read
            overdue = self.ranks.leads and time.monotonic() - self.saved_at > self.save_seconds
            stops, saves = self.ranks.any_ranks(stop.requested, overdue)
            if stops or saves:
                self._save()
            if stops:
                self._stop(stop)

    def _step(self, chunks: list[dict]) -> None:
        """Train on one global batch, of which `chunks` is this rank's part."""
        state = self.state
        torch.manual_seed(seed_of("dropout", self.seed, state.step, self.ranks.rank))
        loss, terms = backward(self.task, chunks, self.device, self.updates.scaled)
        self.measured = {"loss": loss, **terms}
        if not math.isfinite(loss.item()):
            self._fail_not_finite(chunks)
        try:
            self.measured |= self.updates(state.step)
        except FloatingPointError:
            self._fail_not_finite(chunks)
        state.step += 1
        state.consumed += self.batches.size
        state.samples += self.batches.size
        if self.ranks.leads and state.step % max(1, self.total_steps // CURVE_POINTS) == 0:
            values = {f"train/{name}": float(value) for name, value in self.measured.items()}
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self.curve.add(state.step, state.epoch + 1, finite | self.meter.take())

    def _end_epoch(self, stop: Stop) -> None:
        """Validate, keep the weights if they are the best so far, and count the epoch."""
        state = self.state
        scores: dict[str, float] | None = {}
        self.updates.end_epoch(state.epoch + 1)
        if state.epoch + 1 >= self.selection.first:
            with self.updates.averaged():  # the weights that are scored are those that are kept
                scores = self._validate(stop)
                if scores:
                    metric = self.validation.selection_metric
                    self._select(metric, scores[metric])
        if scores is None:  # interrupted; validation changed nothing and is repeated on resume
            self._save()
            self._stop(stop)
        self._log_epoch(scores)
        state.epoch += 1
        state.consumed = 0

    def _validate(self, stop: Stop) -> dict[str, float] | None:
        """Return validation metrics, also added to the curve; None, on all ranks, if interrupted.

        Every rank encodes its part of the clips; the first one scores all of them.
        """
        self.task.model.eval()
        part = self._unless_stopped(stop, self.validation.part)
        if self.ranks.any_rank(part is None) or part is None:
            return None
        parts, scores = self.ranks.gathered(part), None
        if self.ranks.leads:
            scores = self._unless_stopped(stop, lambda: self.validation.scores(parts))
        scores = self.ranks.from_leader(scores)
        if scores and self.ranks.leads:
            row = {f"{self.selection.split}/{name}": value for name, value in scores.items()}
            self.curve.add(self.state.step, self.state.epoch + 1, row)
        return scores

    def _unless_stopped(self, stop: Stop, work: Callable[[], T]) -> T | None:
        """Return the result of `work`, which changes no state; None if a stop interrupts it."""
        try:
            with stop.interrupting(), torch.no_grad(), autocast(self.device, self.task.model):
                return work()
        except Interrupted:
            return None

    def _select(self, metric: str, value: float) -> None:
        """Record the metric of this epoch, and save its weights if they are the best so far."""
        state = self.state
        state.last_value = value
        if self.selection.selects and self.selection.prefers(metric, value, state.best_value):
            state.best_epoch, state.best_value = state.epoch + 1, value
            if self.ranks.leads:
                self.checkpoints.save_best(state.best_epoch, self.task.model)

    def _save(self) -> None:
        if self.ranks.leads:
            self.state.curve_bytes = self.curve.sync()
            self.checkpoints.save(self.state, self.task.model, self.updates)
            self.tracker.saved(self.state.curve_bytes)
        # Launchers kill the remaining ranks when one exits, also one that is still writing.
        self.ranks.barrier()
        self.meter.saved = self.state.step
        self.saved_at = time.monotonic()

    def _stop(self, stop: Stop) -> NoReturn:
        reason = stop.reason or "another rank was asked to stop"
        raise RetryLater(
            f"{self.folder}: stopped at step {self.state.step} of {self.total_steps} ({reason}), "
            "saved. Fix: run the same command again"
        )

    def _fail_not_finite(self, chunks: list[dict]) -> NoReturn:
        """Write a report for the search of the cause, and raise NotFinite."""
        state = self.state
        torch.manual_seed(seed_of("dropout", self.seed, state.step, self.ranks.rank))
        folder = self.folder / f"not-finite-step-{state.step:06d}"
        finding = dump(folder, self.task, chunks, self.device, state.step, self.ranks)
        raise NotFinite(
            f"{folder}: loss or gradient is not finite at step {state.step}: {finding}. Fix: look "
            f"at `clip4vla not-finite {folder}`, then leave out a broken clip or lower optimiser.lr"
        )

    def _epoch_name(self) -> str:
        return f"epoch {self.state.epoch + 1}/{self.config.epochs}"

    def _status(self) -> str:
        """Return speed, waiting, memory, loss, its terms and the learning rate, for the log."""
        values = [f"{name} {float(value):.4g}" for name, value in self.measured.items()]
        return f"{self.meter.report(self.meter.total)}, {' '.join(values)}"

    def _log_epoch(self, scores: dict[str, float]) -> None:
        """Log one line at the end of an epoch, after collecting the numbers of every rank."""
        waiting_and_memory = self.meter.total.wait_share, self.meter.peak_memory
        self.meter.ranks = self.ranks.gathered([waiting_and_memory])
        if self.ranks.leads:
            split = self.selection.split
            shown = "".join(f", {split}/{name} {value:.4g}" for name, value in scores.items())
            log.info(f"{self._epoch_name()} done: {self._status()}{shown}")
