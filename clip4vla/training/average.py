"""Averages of the weights, which a run validates and keeps instead of its last ones."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from clip4vla.config.sections import Optimiser

WARMUP = 10  # updates after which at most a tenth of the average is from the initial weights


class Average:
    """Averages of the trainable parameters, in `values`, which is empty before the first.

    Frozen parameters are equal to their average and need none. Every rank has the same average, as
    it has the same weights.
    """

    def __init__(self, model: nn.Module):
        self.learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {}

    def after_update(self, step: int) -> None:
        """Take in the weights after update number `step`, from 0."""

    def after_epoch(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, counted from 1; once for each epoch."""

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model, and afterwards its own weights, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """Leave the average in the model."""
        for name, value in self.values.items():
            self.learning[name].data.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the values."""
        return self.values

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the values of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(state[name])

    def _exchange(self) -> None:
        for name in self.values:
            parameter = self.learning[name]
            parameter.data, self.values[name] = self.values[name], parameter.data


class MovingAverage(Average):
    """The exponential moving average: value <- d value + (1 - d) weight after each update.

    d is `decay`, and less at first: min(decay, (1 + n) / (10 + n)) at update n, so that the random
    initial weights of a head do not stay in the average of a short run.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in self.learning.items()}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """See `Average.after_update`."""
        decay = min(self.decay, (1 + step) / (WARMUP + step))
        for name, parameter in self.learning.items():
            self.values[name].lerp_(parameter, 1 - decay)


class EpochMean(Average):
    """The plain mean of the weights at the ends of epochs `first` to `last`, summed in float64."""

    def __init__(self, model: nn.Module, first: int, last: int):
        super().__init__(model)
        self.first, self.last, self.epoch = first, last, 0  # epoch: the last one in the sums
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """See `Average.after_epoch`. After a resume the end of an epoch may be repeated."""
        if not self.first <= epoch <= self.last or epoch <= self.epoch:
            return
        for name, parameter in self.learning.items():
            weight = parameter.detach().cpu().double()
            self.sums[name] = self.sums.get(name, 0.0) + weight
        self._set(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the last epoch in them."""
        return {"sums": self.sums, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums of a checkpoint."""
        self.sums = dict(state["sums"])
        self._set(state["epoch"])

    def _set(self, epoch: int) -> None:
        self.epoch = epoch
        count = epoch - self.first + 1
        self.values = {n: (x / count).to(self.learning[n]) for n, x in self.sums.items()}


def average_of(model: nn.Module, config: Optimiser) -> Average | None:
    """Return the average of weights that a run is configured to keep; None: its own weights."""
    if config.ema is not None:
        return MovingAverage(model, config.ema)
    if config.average_epochs is not None:
        return EpochMean(model, *config.average_epochs)
    return None
