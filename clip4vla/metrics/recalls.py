"""R@k, median and mean rank of `Ranks`: expected values under ties, their bounds, as released.

Equals stand in random order (`TIE_RULE`): R@k counts each answer with its chance to be among the
first k, the mean rank is the expected one, and the median is that of the expected ranks. So a model
that says the same of every clip has the R@1 of chance, and neither 0 nor 100 %.
"""

import numpy as np

from clip4vla.metrics.intervals import Median, Totals, mean
from clip4vla.metrics.retrieval import Ranks

TIE_RULE = "expected value over a random order of equals"
RECALLS = (1, 5, 10, 50)


def hit_chance(ranks: Ranks, k: int) -> np.ndarray:
    """Chance [n] that a right answer is among the first k when equals stand in random order.

    Of m wrong and c right answers with one similarity, j = k - better places are left. None of
    them is right with chance C(m, j) / C(m + c, j), which is the product below.
    """
    others = ranks.worst - ranks.best  # m
    places = k - (ranks.best - 1)  # j
    missed = np.ones(len(others))
    for i in range(1, int(ranks.copies.max(initial=0)) + 1):
        factor = np.clip((others - places + i) / (others + i), 0.0, 1.0)
        missed *= np.where(i <= ranks.copies, factor, 1.0)
    return 1.0 - missed


def names(direction: str) -> list[str]:
    """The metrics of a direction such as t2v: t2v_R1, ..., t2v_MedR, t2v_MeanR."""
    return [f"{direction}_{name}" for name in (*(f"R{k}" for k in RECALLS), "MedR", "MeanR")]


def summary(hits: list[np.ndarray], places: np.ndarray, direction: str) -> dict[str, float]:
    """Metrics by name, from the hits [n] of every k of `RECALLS` and places [n]."""
    values = [100.0 * float(np.mean(hit)) for hit in hits]
    values += [float(np.median(places)), float(np.mean(places))]
    return dict(zip(names(direction), values, strict=True))


def rank_metrics(ranks: Ranks, direction: str) -> dict[str, float]:
    """Expected R@k in percent, median and mean rank, named such as `t2v_R1`."""
    return summary([hit_chance(ranks, k) for k in RECALLS], ranks.expected, direction)


def rank_bounds(ranks: Ranks, direction: str) -> dict[str, list[float]]:
    """[pessimistic, optimistic] of every metric in which they differ: all ties lost, all won."""
    worst, best = (
        summary([places <= k for k in RECALLS], places, direction)
        for places in (ranks.worst, ranks.best)
    )
    return {name: [worst[name], best[name]] for name in worst if worst[name] != best[name]}


def released_metrics(ranks: Ranks, direction: str) -> dict[str, float]:
    """What the released code makes of the ranks (facts 7.6): a tie is the mean of its places.

    Its R@1 counts places of exactly 1; its R@5 and R@10 also count k + 1/2. (Clip -> text and R@50
    are not in that code: the same rule.)
    """
    places = (ranks.best + ranks.worst) / 2
    hits = [places == 1 if k == 1 else places < k + 1 for k in RECALLS]
    return summary(hits, places, direction)


def rank_statistics(ranks: Ranks, clip: np.ndarray, direction: str) -> dict[str, Totals | Median]:
    """The metrics of `rank_metrics` as functions of draws; clip [n]: whose answer it is."""
    hits = [mean(100.0 * hit_chance(ranks, k), clip) for k in RECALLS]
    values: list[Totals | Median] = [
        *hits,
        Median(ranks.expected, clip),
        mean(ranks.expected, clip),
    ]
    return dict(zip(names(direction), values, strict=True))
