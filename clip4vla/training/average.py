"""An exponential moving average of the weights, which the run validates and keeps instead."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

WARMUP = 10  # updates after which at most a tenth of the average is from the initial weights


class Average:
    """Moving average of the trainable parameters: value <- d value + (1 - d) weight.

    d is `decay`, and less at first: min(decay, (1 + n) / (10 + n)) at update n, so that the random
    initial weights of a head do not stay in the average of a short run. Frozen parameters are
    equal to their average and need none. Every rank has the same average, as it has the same
    weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in self.learning.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after update number `step` (from 0) to the average."""
        decay = min(self.decay, (1 + step) / (WARMUP + step))
        for name, parameter in self.learning.items():
            self.values[name].lerp_(parameter, 1 - decay)

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
        for name, parameter in self.learning.items():
            parameter.data.copy_(self.values[name])

    def load(self, values: dict[str, Tensor]) -> None:
        """Restore the values of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def _exchange(self) -> None:
        for name, parameter in self.learning.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
