"""Seeded random initialisation: equal seeds, equal weights."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch

LINEAR_STD = 0.02  # of randomly initialised Linear and Embedding modules, as in CLIP and BERT


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator that depends only on the seed and on its purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextlib.contextmanager
def seeded_construction(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator in this context, for constructors that draw from it.

    open_clip's towers and torch's layers take no generator. The global state is restored at the
    end.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(generator_for(seed, "towers").initial_seed())
        yield
