"""What a model learns: the tasks of every family, as the training loop sees them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.gather import gather

Batch = dict[str, Any]  # tensors whose first axis is the clip, and lists of ids and captions
Loss = tuple[Tensor, dict[str, Tensor]]  # and its named terms for the curve


class Task(Protocol):
    """A model and its loss. `heads`: prefixes of parameters that learn at `head_lr`."""

    @property
    def model(self) -> nn.Module:
        """The model that learns."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Prefixes of the parameters that learn at `head_lr`."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch: a mean over its targets, or a contrast of its clips."""

    def targets(self, batch: Batch) -> int:
        """Return how many targets the mean of `loss` is over; unused by contrastive tasks."""

    def facts(self) -> dict[str, Any]:
        """Return what the metadata of the trained weights says of the objective."""


class ContrastiveTask(ABC):
    """A task whose loss compares the clips of a batch: first encoded, clip by clip, then compared.

    What happens to one clip alone belongs into `encode`, whatever reads two into `objective`.
    """

    model: nn.Module
    heads: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Return the features of the clips of a batch.

        `again`: they were encoded before, and now get their gradients; features without gradients
        may be left out.
        """

    @abstractmethod
    def objective(self, features: Features) -> Loss:
        """Return the loss of the (global) batch of which these are the features."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch that is on the device whole, with those of other ranks."""
        return self.objective(gather(self.encode(batch)))

    def targets(self, batch: Batch) -> int:
        """Return the number of clips."""
        return len(batch["clip_id"])
