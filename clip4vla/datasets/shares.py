"""Deal sources of clips to splits by shares.

A source's split depends on the seed and its own name alone: a hash of both is a number from 0 to 1,
and the splits divide this range. So a further clip never moves another one, which a draw among all
clips would do, and a model that was trained on an earlier version of the table has never seen the
test clips of a later one. The price: shares hold on average, and a small table may leave a split
empty. The test split comes first in the range, so that other shares of train and val keep it.
"""

from collections.abc import Iterable

from clip4vla.common.files import sha256_of
from clip4vla.config.data import Shares

_ORDER = ("test", "val", "train")
_SEEDS = 1000  # tried, to name one with which no split is empty


def deal(sources: Iterable[str], shares: Shares) -> dict[str, str]:
    """Return the split of each source."""
    return {source: _split_of(source, shares) for source in sources}


def empty_splits(dealt: dict[str, str], shares: Shares) -> list[str]:
    """Return the splits with a share and without a source."""
    return [name for name in _ORDER if getattr(shares, name) and name not in dealt.values()]


def other_seed(dealt: dict[str, str], shares: Shares) -> int | None:
    """Return the first seed with which these sources leave no split empty; None: not found."""
    for seed in range(_SEEDS):
        other = shares.model_copy(update={"seed": seed})
        if not empty_splits(deal(dealt, other), other):
            return seed
    return None


def _split_of(source: str, shares: Shares) -> str:
    point = int(sha256_of(f"{shares.seed}/{source}")[:13], 16) / 16**13  # in [0, 1)
    named = [name for name in _ORDER if getattr(shares, name)]
    end = 0.0
    for name in named:
        end += getattr(shares, name)
        if point < end:
            return name
    return named[-1]  # the sum of shares is 1 up to rounding
