"""Targets of classes, smoothed and mixed as in CAV-MAE's loader."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def multi_hot(labels: Iterable[str], place: Mapping[str, int]) -> Tensor:
    """Return float32 [C]: 1 at the places of a clip's labels, 0 elsewhere."""
    target = torch.zeros(len(place))
    target[[place[label] for label in labels]] = 1.0
    return target


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    """Return 1 - smoothing at the labels of a target [..., C], smoothing / C elsewhere."""
    return torch.where(target > 0, 1.0 - smoothing, smoothing / target.shape[-1])


class ClassTargets:
    """Targets of clips by their labels.

    The number of each clip's class, int64 [B]; with `shares`, as where clips have several labels or
    are mixed, a share of every class, float32 [B, C].
    """

    def __init__(self, classes: Sequence[str], shares: bool, smoothing: float = 0.0):
        self.place = {label: number for number, label in enumerate(classes)}
        self.shares, self.smoothing = shares, smoothing

    def __call__(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """Return the targets of clips with these labels."""
        if not self.shares:
            return torch.tensor([self.place[label] for (label,) in labels])
        return smoothed(self._hot(labels), self.smoothing)

    def of_batch(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the targets of a batch of clips, some of which may be mixed with others."""
        own = self(batch["labels"])
        if "share" not in batch:
            return own
        share = batch["share"].float()[:, None]  # [B, 1]
        others = self._hot(batch["mixed_labels"])
        both = mixed(self._hot(batch["labels"]), others, share, self.smoothing)
        return torch.where(share < 1.0, both, own)

    def _hot(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        return torch.stack([multi_hot(names, self.place) for names in labels])


def mixed(target: Tensor, other: Tensor, share: float | Tensor, smoothing: float) -> Tensor:
    """Return the target of a clip mixed with another one, of which it keeps `share`.

    Labels are added to smoothing / C, which a clip alone has only where it has no label. So a clip
    that is mixed with itself has slightly more than 1 - smoothing, as in the released code.
    """
    labels = share * target + (1.0 - share) * other
    return smoothing / target.shape[-1] + (1.0 - smoothing) * labels
