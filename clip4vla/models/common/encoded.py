"""Encoded clips: one sequence of features for each modality, or stream of several."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class FeatureSequence(NamedTuple):
    """Features that are not normalised, and the mask of their valid positions."""

    features: Tensor  # [B, S, D]
    mask: Tensor  # bool [B, S]


Encoded = dict[str, FeatureSequence]  # by modality, "vision" or "audio", or by stream


def each(encoded: Encoded, change: Callable[[Tensor], Tensor]) -> Encoded:
    """Apply a function to every tensor of encoded clips, features and masks alike."""
    return {name: FeatureSequence(change(x), change(mask)) for name, (x, mask) in encoded.items()}
