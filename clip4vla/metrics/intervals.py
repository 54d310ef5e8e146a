"""Bootstrap intervals of metrics, and the paired test of two runs on the same clips.

Clips are drawn, not queries: the captions of one clip are correlated, so five captions are not
five independent observations. A draw is a vector of weights, the number of times each clip is in
it, and a metric is a function of these weights; so nothing is copied.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import numpy as np

from clip4vla.common.seeds import generator

LEVEL = 0.95
RESAMPLES = 2000
INTERVAL_RULE = f"{LEVEL:.0%} percentile bootstrap over clips, {RESAMPLES} draws"
PAIRED_RULE = (
    f"paired bootstrap over clips, {LEVEL:.0%} percentile interval; two-sided permutation test, "
    f"runs exchanged clip by clip; {RESAMPLES} draws each"
)
WEIGHTS = 1 << 22  # draws x clips in memory at once


@dataclass(frozen=True)
class Totals:
    """A metric computed from sums over clips: a mean, or a corpus score.

    sums: [C, S], of each clip; score: maps the sums of B draws [B, S] to the metric [B].
    """

    sums: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """Return the metric [B] when clip c counts weights[b, c] times."""
        return self.score(weights @ self.sums)

    def exchanged(self, other: "Totals", swap: np.ndarray) -> np.ndarray:
        """Return other's metric less this one's [B], clips exchanged where swap [B, C] is 1."""
        moved = swap @ (other.sums - self.sums)
        return other.score(other.sums.sum(0) - moved) - self.score(self.sums.sum(0) + moved)


@dataclass(frozen=True)
class Median:
    """The median of one value per row: values [n], and clip [n], whose row it is (0 .. C - 1)."""

    values: np.ndarray
    clip: np.ndarray
    order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", np.argsort(self.values, kind="stable"))

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """Return the metric [B] when clip c counts weights[b, c] times (whole numbers)."""
        values, clip = self.values[self.order], self.clip[self.order]
        medians = np.empty(len(weights))
        for i, row in enumerate(weights):
            places = np.cumsum(row[clip])
            middle = (places[-1] - 1) // 2, places[-1] // 2  # places count from 0
            medians[i] = values[np.searchsorted(places, middle, side="right")].mean()
        return medians

    def exchanged(self, other: "Median", swap: np.ndarray) -> np.ndarray:
        """Return other's metric less this one's [B], clips exchanged where swap [B, C] is 1."""
        differences = np.empty(len(swap))
        for i, row in enumerate(swap):
            moved = row[self.clip] != 0
            first = np.where(moved, other.values, self.values)
            second = np.where(moved, self.values, other.values)
            differences[i] = np.median(second) - np.median(first)
        return differences


class Statistic(Protocol):
    """A metric as a function of draws of clips."""

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """Return the metric [B] when clip c counts weights[b, c] times (whole numbers)."""
        ...

    def exchanged(self, other: Self, swap: np.ndarray) -> np.ndarray:
        """Return other's metric less this one's [B], clips exchanged where swap [B, C] is 1."""
        ...


Statistics = Mapping[str, Statistic]


def mean(values: np.ndarray, clip: np.ndarray) -> Totals:
    """Return the mean of one value per row; values [n], clip [n] (0 .. C - 1)."""
    sums = np.bincount(clip, weights=values), np.bincount(clip)
    return Totals(np.stack(sums, axis=1).astype(np.float64), lambda x: x[:, 0] / x[:, 1])


def intervals(statistics: Statistics, clips: int) -> dict[str, list[float]]:
    """Return [low, high] of every metric: percentiles over bootstrap draws of `clips` clips.

    The draws depend only on the number of clips, so equal data give equal intervals.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for weights in _draws(clips):
        for name, statistic in statistics.items():
            draws[name].append(statistic.drawn(weights))
    return {name: _middle(np.concatenate(values)) for name, values in draws.items()}


class Difference(NamedTuple):
    """Second run minus first, its interval, and the p-value of the permutation test."""

    first: float
    second: float
    difference: float
    interval: list[float]
    p: float


def paired(first: Statistics, second: Statistics, clips: int) -> dict[str, Difference]:
    """Return the difference of every metric that both have, on the same clips in the same order.

    Both are drawn with the same weights, so clips that are hard for both cancel out.
    """
    names = [name for name in first if name in second]
    draws: dict[str, list[np.ndarray]] = {name: [] for name in names}
    exchanges: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for weights in _draws(clips):
        for name in names:
            draws[name].append(second[name].drawn(weights) - first[name].drawn(weights))
    for swap in _exchanges(clips):
        for name in names:
            exchanges[name].append(_exchanged(first[name], second[name], swap))
    once, differences = np.ones((1, clips)), {}
    for name in names:
        one, two = (float(run[name].drawn(once)[0]) for run in (first, second))
        others = np.abs(np.concatenate(exchanges[name]))
        extreme = np.count_nonzero(others >= abs(two - one) - 1e-9 * max(1.0, abs(one), abs(two)))
        p = (1 + extreme) / (1 + len(others))
        differences[name] = Difference(
            first=one,
            second=two,
            difference=two - one,
            interval=_middle(np.concatenate(draws[name])),
            p=p,
        )
    return differences


def _exchanged(one: Statistic, two: Statistic, swap: np.ndarray) -> np.ndarray:
    if type(one) is not type(two):
        raise TypeError(f"a {type(one).__name__} and a {type(two).__name__} cannot be exchanged")
    return one.exchanged(two, swap)


def _middle(draws: np.ndarray) -> list[float]:
    """Return the central `LEVEL` of draws [B] as [low, high]."""
    tail = 50.0 * (1.0 - LEVEL)
    return [float(value) for value in np.percentile(draws, [tail, 100.0 - tail])]


def _parts(clips: int) -> Iterator[int]:
    """Split `RESAMPLES` into parts that fit in memory."""
    size = max(1, WEIGHTS // clips)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)


def _draws(clips: int) -> Iterator[np.ndarray]:
    """Yield how often each clip is drawn: whole numbers [b, C], `RESAMPLES` rows in all."""
    rng = generator("bootstrap", clips)
    for size in _parts(clips):
        weights = np.empty((size, clips))
        for row in weights:
            row[:] = np.bincount(rng.integers(clips, size=clips), minlength=clips)
        yield weights


def _exchanges(clips: int) -> Iterator[np.ndarray]:
    """Yield which clips are exchanged: 0 or 1, [b, C], `RESAMPLES` rows in all."""
    rng = generator("permutation", clips)
    for size in _parts(clips):
        yield rng.integers(2, size=(size, clips)).astype(np.float64)
