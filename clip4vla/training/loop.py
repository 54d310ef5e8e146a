"""The training loop. It knows a task (model + loss) and batches, not what they are about.

A run is a function of its config: the batch of step s is a function of (seed, epoch, position), its
dropout one of (seed, step, rank), and a checkpoint holds model, optimiser and position. So a run
that was killed and resumed ends with the same bits on CPU as one that was not. With several ranks
all of them train the same global batch; the first one writes, validates and reports.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from clip4vla.config.run import Optimiser
from clip4vla.errors import RetryLater, UserError
from clip4vla.evaluation.device import autocast, half_type
from clip4vla.features.seeds import seed_of
from clip4vla.files import write_json
from clip4vla.progress import track
from clip4vla.tracking.sink import Sink
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.curve import Curve
from clip4vla.training.gradients import Task, backward
from clip4vla.training.optimiser import Updates
from clip4vla.training.ranks import Ranks
from clip4vla.training.stop import Interrupted, Stop

SAVE_SECONDS = 600.0  # work that a kill can cost, beside the end of each epoch
CURVE_POINTS = 2000  # rows of the training curve, whatever the length of the run


class Batches(Protocol):
    """The batches of every epoch: `steps` of `size` samples each, each in chunks."""

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
    seed: int = 0
    select: bool = False
    save_seconds: float = SAVE_SECONDS
    ranks: Ranks = Ranks()
    state: TrainState = field(default_factory=TrainState)
    sink: Sink = field(default_factory=Sink)

    def run(self, stop: Stop) -> None:
        """Train to the end and leave the selected weights in the model; `state` goes along.

        Raises RetryLater, after saving, when `stop` of any rank asks for it; UserError when the
        loss is not finite.
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
        if self.select and self.ranks.leads:
            self.checkpoints.load_best(self.state.best_epoch, self.task.model)

    def _resume(self) -> None:
        """Go on from the checkpoint that the first rank finds whole; the others load the same."""
        step = None
        if self.ranks.leads:
            loaded = self.checkpoints.load(self.task.model, self.updates)
            step = loaded and loaded.step
        step = self.ranks.from_leader(step)
        if not self.ranks.leads and step is not None:
            loaded = self.checkpoints.load(self.task.model, self.updates, step)
        if step is not None:
            vars(self.state).update(vars(loaded))
        if self.ranks.leads:
            self.curve = Curve(self.folder / "metrics.jsonl", self.state.curve_bytes)
            self.sink.saved(self.state.curve_bytes)

    def _train_epoch(self, stop: Stop) -> None:
        state = self.state
        self.task.model.train()
        batches = self.batches(state.epoch, state.consumed)
        left = self.batches.steps - state.consumed // self.batches.size
        if self.ranks.leads:
            batches = track(batches, f"epoch {state.epoch + 1}/{self.config.epochs}", left)
        for chunks in batches:
            self._step(chunks)
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
        terms = {"loss": loss, **terms}
        if not math.isfinite(loss.item()):
            self._refuse(chunks, terms)
        try:
            measured = self.updates(state.step)
        except FloatingPointError:
            self._refuse(chunks, terms)
        state.step += 1
        state.consumed += self.batches.size
        state.samples += self.batches.size
        if self.ranks.leads and state.step % max(1, self.total // CURVE_POINTS) == 0:
            values = {**{name: term.item() for name, term in terms.items()}, **measured}
            finite = {f"train/{k}": value for k, value in values.items() if math.isfinite(value)}
            self.curve.add(state.step, state.epoch + 1, finite)

    def _end_epoch(self, stop: Stop) -> None:
        state = self.state
        values = self.ranks.from_leader(self._validate(stop) if self.ranks.leads else None)
        if values is None:  # interrupted; validation changed nothing: it is done again on resume
            self._save()
            self._leave(stop)
        if values:
            state.last_value = values[self.task.selects]
        if self.select and (state.best_value is None or state.last_value > state.best_value):
            state.best_epoch, state.best_value = state.epoch + 1, state.last_value
            if self.ranks.leads:
                self.checkpoints.save_best(state.best_epoch, self.task.model)
        state.epoch += 1
        state.consumed = 0

    def _validate(self, stop: Stop) -> dict[str, float] | None:
        """Validation metrics, noted in the curve; None when it was told to stop."""
        self.task.model.eval()
        try:
            with stop.interrupting(), torch.no_grad(), autocast(self.device):
                values = self.task.validate()
        except Interrupted:
            return None
        if values:
            noted = {f"val/{name}": value for name, value in values.items()}
            self.curve.add(self.state.step, self.state.epoch + 1, noted)
        return values

    def _save(self) -> None:
        if self.ranks.leads:
            self.state.curve_bytes = self.curve.sync()
            self.checkpoints.save(self.state, self.task.model, self.updates)
            self.sink.saved(self.state.curve_bytes)
        self.saved_at = time.monotonic()

    def _leave(self, stop: Stop) -> None:
        done = f"step {self.state.step} of {self.total}"
        why = stop.reason or "another rank was told to"
        raise RetryLater(f"stopped at {done} ({why}), saved; the same command goes on")

    def _refuse(self, chunks: list[dict], terms: dict[str, Tensor]) -> None:
        """Name the clips of a batch whose loss or gradient is NaN or infinite, and stop."""
        state = self.state
        clips = self.ranks.all([clip for chunk in chunks for clip in chunk["clip_id"]])
        path = self.folder / f"not-finite-step-{state.step:06d}.json"
        values = {name: repr(term.item()) for name, term in terms.items()}
        if self.ranks.leads:
            write_json(path, {"step": state.step, "clip_ids": clips, "terms": values})
        some = ", ".join(clips[:4]) + (f" and {len(clips) - 4} more" if len(clips) > 4 else "")
        raise UserError(
            f"loss or gradient is not finite at step {state.step} on clips {some} (all in {path}); "
            "look at these clips, or lower optimiser.lr"
        )
