"""Features of the clips of a batch, between encoding and comparison."""

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import pad

Features = dict[str, Tensor]
"""Tensors whose first axis is the clip: vectors [B, D], sequences [B, n, D] with their masks
bool [B, n], values [B]. A second axis that is shorter in some batches is padding at its end."""


def padded(x: Tensor, length: int) -> Tensor:
    """Pad x [B, n, ...] with zeros to [B, length, ...]; x [B] stays unchanged."""
    if x.ndim < 2:
        return x
    return pad(x, [0, 0] * (x.ndim - 2) + [0, length - x.shape[1]])


def joined(parts: list[Features]) -> Features:
    """Return the concatenation of batches of features, each padded to the longest."""
    features = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        length = max(x.shape[1] for x in tensors) if tensors[0].ndim > 1 else 0
        features[name] = torch.cat([padded(x, length) for x in tensors])
    return features


def count_of(features: Features) -> int:
    """Return the number of clips, or of texts."""
    return len(next(iter(features.values())))


def rows_of(features: Features, rows: slice) -> Features:
    """Return the features of some clips, or of some texts."""
    return {name: x[rows] for name, x in features.items()}


def numbers_of(clip_ids: list[str]) -> Tensor:
    """Return a number per id, int64 [B]: 64 bits of a hash, the same on every machine."""
    digests = (hashlib.blake2b(clip_id.encode(), digest_size=8).digest() for clip_id in clip_ids)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])
