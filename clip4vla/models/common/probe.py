"""The linear probe of classification and tagging, alone or with its towers (facts 9)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from clip4vla.config.run import Finetune
from clip4vla.config.sections import Modality
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.initialise import LINEAR_STD, generator_for
from clip4vla.models.common.pooling import masked_mean
from clip4vla.models.common.task import Batch, Loss


class Probe(nn.Module):
    """LayerNorm and Linear on the mean of the un-normalised features."""

    def __init__(self, dim: int, n_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, n_classes)

    def forward(self, clip: Encoded) -> Tensor:
        """Return the logits of the classes, [B, n_classes].

        A clip uses the average of its sequences: a silent clip uses vision only. A clip without
        any valid position has a zero feature.
        """
        means = torch.stack([masked_mean(x, mask) for x, mask in clip.values()], dim=1)
        present = torch.stack([mask.any(dim=1) for _, mask in clip.values()], dim=1)
        return self.linear(self.norm(masked_mean(means, present)))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights from N(0, 0.02), from a generator of their own."""
        self.linear.weight.normal_(std=LINEAR_STD, generator=generator_for(seed, "probe"))
        self.linear.bias.zero_()


def probed(model: Any, batch: Batch, modalities: Iterable[Modality]) -> Encoded:
    """Return what a probe reads: the means that the batch brings along, or its encoded clips.

    A mean is a sequence of one position: `means` [B, 1, D] and `present` bool [B, 1], by name.
    """
    if "means" not in batch:
        encoded: Encoded = model.whole(model.encode_clips(batch, modalities))
        return encoded
    means, present = batch["means"], batch["present"]
    return {name: FeatureSequence(x, present[name]) for name, x in means.items()}


@dataclass
class ProbeTask:
    """Classes of clips, by a probe on their features.

    The batch brings the features along where the towers are frozen (facts 9); otherwise the towers
    encode its clips, and learn too.
    """

    model: Any  # a ClipModel with a `probe`
    run: Finetune
    heads: ClassVar[tuple[str, ...]] = ("probe.",)

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy of the class of a clip, or the binary one of all classes."""
        logits = self.model.probe(probed(self.model, batch, self.run.modalities)).float()
        if self.run.task == "tagging":
            return binary_cross_entropy_with_logits(logits, batch["target"]), {}
        return cross_entropy(logits, batch["target"]), {}

    def facts(self) -> dict[str, Any]:
        """Return no facts."""
        return {}

    def targets(self, batch: Batch) -> int:
        """Return the number of clips."""
        return len(batch["target"])
