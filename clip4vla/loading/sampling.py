"""Balanced sampling as in CAV-MAE: clips of rare classes are drawn more often."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from clip4vla.common.seeds import generator
from clip4vla.loading.order import epoch_order

CLIPS = 1000.0  # of the rule, where it keeps weights away from 0; only their ratios matter
LEAST = 0.01


def balancing_weights(labels: Sequence[Collection[str]]) -> np.ndarray:
    """Return the weight of each clip [N]: the sum over its labels of 1000 / (clips with it + 0.01).

    A clip without labels has weight 0: it is never drawn.
    """
    counts = Counter(label for clip in labels for label in clip)
    each = {label: CLIPS / (count + LEAST) for label, count in counts.items()}
    return np.array([sum(each[label] for label in clip) for clip in labels], dtype=np.float64)


def balanced_order(
    weights: np.ndarray, shard_of: np.ndarray, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips of an epoch, drawn with replacement by weights [N], and each one's number.

    As many are drawn as there are clips. A clip's draws are numbered 0, 1, ... in the epoch, so
    that each is augmented in its own way. They are read in the order of `epoch_order`, near a few
    shards. Both are int64 [N].
    """
    rng = generator("balanced", seed, epoch)
    drawn = rng.choice(len(weights), size=len(weights), p=weights / weights.sum())
    drawn = drawn[epoch_order(shard_of[drawn], seed, epoch)]
    by_clip = np.argsort(drawn, kind="stable")
    ordered = drawn[by_clip]
    number = np.empty_like(drawn)
    number[by_clip] = np.arange(len(drawn)) - np.searchsorted(ordered, ordered)
    return drawn, number
