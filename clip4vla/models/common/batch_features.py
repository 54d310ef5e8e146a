"""What a contrastive task keeps of its clips between encoding them and comparing them."""

import hashlib

import torch
from torch import Tensor
from torch.nn.functional import pad

Features = dict[str, Tensor]
"""Tensors whose first axis is the clip: vectors [B, D], sequences [B, n, D] with their masks
bool [B, n], values [B]. A second axis that is shorter in some batches is padding at its end."""


def padded(x: Tensor, length: int) -> Tensor:
    """x [B, n, ...] with zeros behind its second axis: [B, length, ...]; [B] stays as it is."""
    if x.ndim < 2:
        return x
    return pad(x, [0, 0] * (x.ndim - 2) + [0, length - x.shape[1]])


def joined(parts: list[Features]) -> Features:
    """Batches of features as one, each padded to the longest."""
    whole = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        length = max(x.shape[1] for x in tensors) if tensors[0].ndim > 1 else 0
        whole[name] = torch.cat([padded(x, length) for x in tensors])
    return whole


def count_of(features: Features) -> int:
    """Return the number of clips, or of texts."""
    return len(next(iter(features.values())))


def rows_of(features: Features, rows: slice) -> Features:
    """Return the features of some clips, or of some texts."""
    return {name: x[rows] for name, x in features.items()}


def numbers_of(clip_ids: list[str]) -> Tensor:
    """A number per id, equal for equal ids: int64 [B]. 64 bits of a hash, the same everywhere."""
    digests = (hashlib.blake2b(clip_id.encode(), digest_size=8).digest() for clip_id in clip_ids)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])
