"""Targets of classes, smoothed and mixed as in CAV-MAE's loader."""

from collections.abc import Iterable, Mapping, Sequence

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

    The number of each clip's class, int64 [B]; where clips have several labels or targets are
    smoothed, a share of every class, float32 [B, C].
    """

    def __init__(self, classes: Sequence[str], several: bool = False, smoothing: float = 0.0):
        self.place = {label: number for number, label in enumerate(classes)}
        self.several, self.smoothing = several, smoothing

    def __call__(self, labels: Sequence[tuple[str, ...]]) -> Tensor:
        """Return the targets of clips with these labels."""
        if not self.several and not self.smoothing:
            return torch.tensor([self.place[label] for (label,) in labels])
        return smoothed(torch.stack([multi_hot(x, self.place) for x in labels]), self.smoothing)


def mixed(target: Tensor, other: Tensor, share: float, smoothing: float) -> Tensor:
    """Return the target of a clip mixed with another one, of which it keeps `share`.

    Labels are added to smoothing / C, which a clip alone has only where it has no label. So a clip
    that is mixed with itself has slightly more than 1 - smoothing, as in the released code.
    """
    labels = share * target + (1.0 - share) * other
    return smoothing / target.shape[-1] + (1.0 - smoothing) * labels
