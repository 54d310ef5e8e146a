"""The interface of training tasks, for the training loop."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.gather import gather

Batch = dict[str, Any]  # tensors whose first axis is the clip, and lists of ids and captions
Loss = tuple[Tensor, dict[str, Tensor]]  # the loss, and its named terms for the curve


class Task(Protocol):
    """A model and its loss. `heads`: prefixes of parameters that learn at `head_lr`."""

    @property
    def model(self) -> nn.Module:
        """Return the model to train."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the prefixes of parameters that learn at `head_lr`."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch: a mean over its targets, or a contrast of its clips."""

    def targets(self, batch: Batch) -> int:
        """Return the number of targets in the mean of `loss`; unused by contrastive tasks."""

    def facts(self) -> dict[str, Any]:
        """Return facts about the objective for the metadata of the trained weights."""


class ContrastiveTask(ABC):
    """A task whose loss compares the clips of a batch with each other.

    Computations on single clips belong in `encode`, and those on several clips in `objective`.
    """

    model: nn.Module
    heads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Return the features of the clips of a batch.

        `again`: the second pass of gradient caching, in which features without gradients may be
        omitted.
        """

    @abstractmethod
    def objective(self, features: Features) -> Loss:
        """Return the loss of the (global) batch with these features."""

    def facts(self) -> dict[str, Any]:
        """Return no facts for the metadata of the weights."""
        return {}

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch together with the batches of other ranks."""
        return self.objective(gather(self.encode(batch)))

    def targets(self, batch: Batch) -> int:
        """Return the number of clips."""
        return len(batch["clip_id"])
