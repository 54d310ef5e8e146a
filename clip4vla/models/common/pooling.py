"""Pooling of a sequence of features to one vector per clip (facts 5.1, 9.1)."""

import torch
from torch import Tensor

EPSILON = 1e-10


def normalise(x: Tensor) -> Tensor:
    """Return unit vectors along the last axis, float32 [..., D]; a zero vector stays zero."""
    x = x.float()
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + EPSILON)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the valid positions, float32 [B, D]; zero where none is valid.

    features: [B, S, D]; mask: bool [B, S].
    """
    weight = mask.float().unsqueeze(-1)  # [B, S, 1]
    return (features.float() * weight).sum(dim=1) / (weight.sum(dim=1) + EPSILON)


def pool(features: Tensor, mask: Tensor) -> Tensor:
    """Normalise each position, average the valid ones, normalise again (facts 5.1).

    features: [B, S, D]; mask: bool [B, S]. Returns float32 [B, D]: unit vectors, or zeros for a
    clip without a valid position.
    """
    return normalise(masked_mean(normalise(features), mask))


def pool_plainly(features: Tensor, mask: Tensor, blank: Tensor, slots: int) -> Tensor:
    """Pool as `pool` does, but over `slots` positions, with `blank` at those that are not valid.

    The released search for donors counts padding in this way (facts 10.2). features: [B, S, D];
    mask: bool [B, S], S at most `slots`; blank: [D], the feature of an empty input. Returns float32
    [B, D].
    """
    weight = mask.float().unsqueeze(-1)  # [B, S, 1]
    total = (normalise(features) * weight).sum(dim=1)  # [B, D]
    return normalise((total + (slots - weight.sum(dim=1)) * normalise(blank)) / slots)
