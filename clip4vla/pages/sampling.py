"""Which queries a page shows: the best, the worst, some at random, and those sound decides."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from clip4vla.common.seeds import generator

EXTREMES, RANDOM, DECIDED = 40, 20, 20  # queries of each kind, at most


def choose(
    quality: np.ndarray, gain: np.ndarray | None = None, names: tuple[str, str] = ("best", "worst")
) -> dict[int, list[str]]:
    """Positions to show, with the names of their groups, in the order of the groups.

    quality [Q]: larger is better; NaN is never shown. gain [Q]: what its own sound is worth to a
    query, NaN where unknown. Equals are drawn among by a fixed seed, so that the first of a list
    are not always the same videos.
    """
    draws = generator("examples").permutation(len(quality))
    known = draws[np.isfinite(quality[draws])]
    ranked = known[np.argsort(-quality[known], kind="stable")]
    half = len(ranked) // 2  # with few queries none is both among the best and the worst
    groups: list[tuple[str, np.ndarray]] = [
        (names[0], ranked[: min(EXTREMES, len(ranked) - half)]),
        (names[1], ranked[::-1][: min(EXTREMES, half)]),
        ("random", known[:RANDOM]),
    ]
    if gain is not None:
        felt = draws[np.isfinite(gain[draws])]
        ordered = felt[np.argsort(-gain[felt], kind="stable")]
        groups.append(("sound helps", ordered[gain[ordered] > 0][:DECIDED]))
        groups.append(("sound hurts", ordered[::-1][gain[ordered[::-1]] < 0][:DECIDED]))
    found: dict[int, list[str]] = {}
    for name, positions in groups:
        for position in positions.tolist():
            found.setdefault(position, []).append(name.replace(" ", "-"))
    return found


def counts(chosen: Mapping[int, list[str]]) -> dict[str, int]:
    """How many are in each group: the two extremes first, then the others."""
    found = Counter(name for groups in chosen.values() for name in groups)
    last = ("random", "sound-helps", "sound-hurts")
    order = [name for name in found if name not in last] + [n for n in last if n in found]
    return {name: found[name] for name in order}
