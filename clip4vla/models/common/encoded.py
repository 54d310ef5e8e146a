"""What a model makes of the clips of a batch: one sequence of features for each modality."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Sequence(NamedTuple):
    """Un-normalised features and which of their positions hold content."""

    features: Tensor  # [B, S, D]
    mask: Tensor  # bool [B, S]


Encoded = dict[str, Sequence]  # by modality: "vision", "audio"


def each(encoded: Encoded, change: Callable[[Tensor], Tensor]) -> Encoded:
    """Return encoded clips with a change made to every tensor, features and masks alike."""
    return {name: Sequence(change(x), change(mask)) for name, (x, mask) in encoded.items()}
