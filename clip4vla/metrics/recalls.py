"""R@k, median and mean rank of `QueryRanks`: expected values under ties, bounds, and as released.

Ties are broken at random (`TIE_RULE`): R@k counts each answer with its probability to be among the
first k, the mean rank is the expected one, and the median is that of the expected ranks. So a model
with equal scores for all clips has the R@1 of chance, and neither 0 nor 100 %.
"""

import numpy as np

from clip4vla.config.metrics import METRICS, RECALLS
from clip4vla.metrics.intervals import Median, Totals, mean
from clip4vla.metrics.retrieval import QueryRanks

TIE_RULE = "expected value over a random order of equals"


def hit_chance(ranks: QueryRanks, k: int) -> np.ndarray:
    """Return the probability [n] of a right answer among the first k when ties are random.

    Of m wrong and c right answers with one similarity, j = k - better places are left. None of
    them is right with probability C(m, j) / C(m + c, j), which is the product below.
    """
    others = ranks.worst - ranks.best  # m
    places = k - (ranks.best - 1)  # j
    missed = np.ones(len(others))
    for i in range(1, int(ranks.copies.max(initial=0)) + 1):
        factor = np.clip((others - places + i) / (others + i), 0.0, 1.0)
        missed *= np.where(i <= ranks.copies, factor, 1.0)
    return 1.0 - missed


def names(direction: str) -> list[str]:
    """Return the metrics of a direction such as t2v: t2v_R1, ..., t2v_MedR, t2v_MeanR."""
    return [f"{direction}_{metric.name}" for metric in METRICS["retrieval"]]


def summary(hits: list[np.ndarray], places: np.ndarray, direction: str) -> dict[str, float]:
    """Return metrics by name, from the hits [n] of every k of `RECALLS` and places [n]."""
    values = [100.0 * float(np.mean(hit)) for hit in hits]
    values += [float(np.median(places)), float(np.mean(places))]
    return dict(zip(names(direction), values, strict=True))


def rank_metrics(ranks: QueryRanks, direction: str) -> dict[str, float]:
    """Return expected R@k in percent, median and mean rank, named such as `t2v_R1`."""
    return summary([hit_chance(ranks, k) for k in RECALLS], ranks.expected, direction)


def rank_bounds(ranks: QueryRanks, direction: str) -> dict[str, list[float]]:
    """Return [all ties lost, all ties won] of every metric in which these differ."""
    worst, best = (
        summary([places <= k for k in RECALLS], places, direction)
        for places in (ranks.worst, ranks.best)
    )
    return {name: [worst[name], best[name]] for name in worst if worst[name] != best[name]}


def released_metrics(ranks: QueryRanks, direction: str) -> dict[str, float]:
    """Return metrics as the released code computes them (facts 7.6): ties get their mean place.

    Its R@1 counts places of exactly 1; its R@5 and R@10 also count k + 1/2. Clip -> text and R@50
    are not in that code; the same rule is applied to them.
    """
    places = (ranks.best + ranks.worst) / 2
    hits = [places == 1 if k == 1 else places < k + 1 for k in RECALLS]
    return summary(hits, places, direction)


def tied_places(ranks: QueryRanks, direction: str) -> dict[str, float]:
    """Return metrics as CAV-MAE's code computes them: each place of a tie counts as an answer.

    A query whose answer shares its similarity with m others counts m + 1 times, at each of their
    places. R@50 and the mean rank are not in that code; the same rule is applied to them.
    """
    times = ranks.worst - ranks.best + 1
    first = np.repeat(ranks.best - times.cumsum() + times, times)
    places = first + np.arange(times.sum())
    return summary([places <= k for k in RECALLS], places, direction)


def rank_statistics(
    ranks: QueryRanks, clip: np.ndarray, direction: str
) -> dict[str, Totals | Median]:
    """Return the metrics of `rank_metrics` as functions of draws; clip [n]: the clip of a row."""
    hits = [mean(100.0 * hit_chance(ranks, k), clip) for k in RECALLS]
    values: list[Totals | Median] = [
        *hits,
        Median(ranks.expected, clip),
        mean(ranks.expected, clip),
    ]
    return dict(zip(names(direction), values, strict=True))
