"""Random generators that are pure functions of their purpose."""

import hashlib

import numpy as np


def seed_of(purpose: str, *parts: int | str) -> int:
    """Return a seed of 63 bits for a purpose and parts, such as ("mask", seed, epoch, clip id)."""
    return _bits(purpose, *parts) >> 65


def generator(purpose: str, *parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by its purpose and parts.

    Two uses share no state, so that workers, ranks and the order of reading do not change draws.
    """
    return np.random.default_rng(_bits(purpose, *parts))


def _bits(*parts: int | str) -> int:
    """Return 128 bits that depend on all parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
