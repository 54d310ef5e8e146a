"""Selection of the queries on a page: best, worst, random, and those that audio decides."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from clip4vla.common.seeds import generator

EXTREMES, RANDOM, DECIDED = 40, 20, 20  # queries of each kind, at most


def choose(
    quality: np.ndarray, gain: np.ndarray | None = None, names: tuple[str, str] = ("best", "worst")
) -> dict[int, list[str]]:
    """Return the positions to show with the names of their groups, in the order of the groups.

    quality [Q]: larger is better; NaN is never shown. gain [Q]: a query's gain from own audio, NaN
    where unknown. A fixed seed chooses among equals, else the first videos of a list would always
    win.
    """
    draws = generator("examples").permutation(len(quality))
    known = draws[np.isfinite(quality[draws])]
    ranked = known[np.argsort(-quality[known], kind="stable")]
    half = len(ranked) // 2  # so that no query is among both the best and the worst
    groups: list[tuple[str, np.ndarray]] = [
        (names[0], ranked[: min(EXTREMES, len(ranked) - half)]),
        (names[1], ranked[::-1][: min(EXTREMES, half)]),
        ("random", known[:RANDOM]),
    ]
    if gain is not None:
        with_gain = draws[np.isfinite(gain[draws])]
        ordered = with_gain[np.argsort(-gain[with_gain], kind="stable")]
        groups.append(("sound helps", ordered[gain[ordered] > 0][:DECIDED]))
        groups.append(("sound hurts", ordered[::-1][gain[ordered[::-1]] < 0][:DECIDED]))
    chosen: dict[int, list[str]] = {}
    for name, positions in groups:
        for position in positions.tolist():
            chosen.setdefault(position, []).append(name.replace(" ", "-"))
    return chosen


def counts(chosen: Mapping[int, list[str]]) -> dict[str, int]:
    """Count the queries of each group: the two extremes first, then the others."""
    sizes = Counter(name for groups in chosen.values() for name in groups)
    last = ("random", "sound-helps", "sound-hurts")
    order = [name for name in sizes if name not in last] + [n for n in last if n in sizes]
    return {name: sizes[name] for name in order}
