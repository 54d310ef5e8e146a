"""The order of samples: a pure function of seed and epoch, the same for any number of ranks.

Shards are permuted, then samples within a window of shards, so that reading stays near a few
files. The state of an epoch is the number of samples consumed, so a resumed run goes on exactly
where it stopped.
"""

from typing import TypeVar

import numpy as np

from clip4vla.common.seeds import generator

Order = TypeVar("Order", range, np.ndarray, list[tuple[int, int]])


def epoch_order(shard_of: np.ndarray, seed: int, epoch: int, window: int = 4) -> np.ndarray:
    """Return an int64 permutation [N] of the samples, whose shards are `shard_of` [N].

    The samples of the first `window` shards (in the epoch's own order of shards) come first, mixed
    among themselves; then those of the next `window` shards, and so on.
    """
    return _windowed(shard_of, window, generator("order", seed, epoch))


def _windowed(shard_of: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    """Return int64 [N]: shards permuted, samples mixed within each window of shards."""
    shards, index = np.unique(np.asarray(shard_of), return_inverse=True)
    place = rng.permutation(len(shards))  # of each shard in the epoch
    shuffled = rng.permutation(len(index))
    return shuffled[np.argsort(place[index[shuffled]] // window, kind="stable")]


def mixed_order(
    sources: list[np.ndarray], seed: int, epoch: int, window: int = 4
) -> list[tuple[int, int]]:
    """Return the order of an epoch over several sources in equal parts: (source, index) pairs.

    `sources` holds the shard of every sample, one array [N] per source. An epoch takes as many
    samples of every source as the smallest one has, in turn, so that every batch is balanced too. A
    larger source goes on in the next epoch where it stopped, through an order of its own that
    covers all its samples before any comes again. (The released code showed the same first rows of
    the larger source in every epoch; facts 6.1.) ValueError when a source is empty.
    """
    share = min(len(shards) for shards in sources)
    if share == 0:
        raise ValueError("a source of clips is empty: nothing can be mixed with it in equal parts")
    columns = []
    for number, shards in enumerate(sources):
        positions = np.arange(epoch * share, (epoch + 1) * share)
        passes = positions // len(shards)
        drawn = np.empty(share, dtype=np.int64)
        for lap in np.unique(passes):
            lap_order = _windowed(shards, window, generator("mixed order", seed, number, lap))
            drawn[passes == lap] = lap_order[positions[passes == lap] % len(shards)]
        columns.append(drawn)
    rows = np.stack(columns, axis=1).tolist()  # [share, sources]
    return [(source, index) for row in rows for source, index in enumerate(row)]


def dealt(order: Order, rank: int, world: int, start: int = 0) -> Order:
    """Return the part of `order` that falls to `rank` of `world` from global position `start` on.

    Position p belongs to rank p mod world, wherever an epoch was resumed.
    """
    return order[start + (rank - start) % world :: world]
