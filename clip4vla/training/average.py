"""An exponential moving average of the weights, which is what the run then validates and keeps."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

WARMUP = 10  # updates after which nine tenths of the weights' start are forgotten, at the least


class Average:
    """value <- d value + (1 - d) weight after every update, for the parameters that learn.

    d is `decay`, and less at first: min(decay, (1 + n) / (10 + n)) at update n, so that the random
    start of a head does not stay in the average of a short run. Frozen parameters have none: they
    are equal to it. Equal on every rank, because the weights are.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in self.learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (WARMUP + step))
        for name, parameter in self.learning.items():
            self.values[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the average, and give it back its own weights, to the bit, after."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """Leave the average in the model."""
        for name, parameter in self.learning.items():
            parameter.data.copy_(self.values[name])

    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from the values of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def _exchange(self) -> None:
        for name, parameter in self.learning.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
