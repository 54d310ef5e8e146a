"""Random generators that are pure functions of what they are for."""

import hashlib

import numpy as np


def seed_of(purpose: str, *parts: int | str) -> int:
    """A seed of 63 bits for a purpose and parts, such as ("mask", seed, epoch, clip id)."""
    return _bits(purpose, *parts) >> 65


def generator(purpose: str, *parts: int | str) -> np.random.Generator:
    """A numpy generator seeded by its purpose and parts.

    No state is shared between two uses, so that neither workers, ranks nor the order of reading
    can change what is drawn.
    """
    return np.random.default_rng(_bits(purpose, *parts))


def _bits(*parts: int | str) -> int:
    """128 bits that depend on all parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
