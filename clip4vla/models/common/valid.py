"""Encoding of the valid frames or segments of a batch, without its padding."""

from torch import Tensor


def valid_positions(mask: Tensor) -> Tensor:
    """Return the indices of valid positions of a flattened mask [B, S]; [0] if no position is.

    So a batch without audio still passes the tower once, and every parameter stays in the graph:
    distributed training waits for the gradients of all of them.
    """
    index = mask.flatten().nonzero().squeeze(1)
    return index if len(index) else index.new_zeros(1)


def scatter(features: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Put features [n, ...] back to their positions: [B, S, ...], zeros where the mask is false."""
    flat = features.new_zeros(mask.numel(), *features.shape[1:]).index_copy(0, index, features)
    invalid = ~mask.view(*mask.shape, *[1] * (features.ndim - 1))
    return flat.unflatten(0, mask.shape).masked_fill(invalid, 0.0)
