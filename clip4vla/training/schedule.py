"""The learning-rate schedule of the released code (facts 6.4)."""

import math


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Return the factor of the peak learning rate for update `step` (0-based) of `total`.

    x = step / total: x / warmup below `warmup`, then (1 + cos(pi x)) / 2. The cosine is not
    re-based at the end of the warm-up, so the rate drops there (from 1.000 to 0.976 for 10 %), as
    in the released code. The first update has rate 0 when there is a warm-up.
    """
    x = step / total
    return x / warmup if x < warmup else 0.5 * (1 + math.cos(math.pi * x))
