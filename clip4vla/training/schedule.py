"""The schedules of the learning rate: factors of its peak."""

import math

from clip4vla.config.sections import Optimiser


def rate_factor(config: Optimiser, step: int, total: int) -> float:
    """Return the factor of the peak learning rate for update `step` (0-based) of `total`."""
    if config.schedule == "cosine":
        return warmup_cosine(step, total, config.warmup)
    assert config.step_from is not None, "checked by the config"
    epoch = step * config.epochs // total  # of updates, all epochs have equally many
    return warmup_step(step, total, config.warmup, epoch, config.step_from)


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Return the factor of the released code (facts 6.4).

    x = step / total: x / warmup below `warmup`, then (1 + cos(pi x)) / 2. The cosine is not
    re-based at the end of the warm-up, so the rate drops there (from 1.000 to 0.976 for 10 %), as
    in the released code. The first update has rate 0 when there is a warm-up.
    """
    x = step / total
    return x / warmup if x < warmup else 0.5 * (1 + math.cos(math.pi * x))


def warmup_step(step: int, total: int, warmup: float, epoch: int, constant: int) -> float:
    """Return 1 in the first `constant` epochs, and half of the epoch before in each later one.

    epoch: of the update, from 0. The warm-up is that of `warmup_cosine`.
    """
    x = step / total
    factor = 0.5 ** max(0, epoch + 1 - constant)
    return factor * x / warmup if x < warmup else factor
