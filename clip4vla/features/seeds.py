"""Random generators that are pure functions of what they are for."""

import hashlib

import numpy as np


def generator(purpose: str, *parts: int | str) -> np.random.Generator:
    """A numpy generator seeded by its purpose and parts, such as ("mask", seed, epoch, clip id).

    No state is shared between two uses, so that neither workers, ranks nor the order of reading
    can change what is drawn.
    """
    text = "\0".join([purpose, *map(str, parts)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))
