"""Several labels a clip: average precision and ROC AUC of each class, and their means.

Average precision is scikit-learn's, without interpolation. Clips with equal scores pass a threshold
together. A class without positives has no average precision: it is left out of mAP and counted.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from clip4vla.common.errors import UserError
from clip4vla.metrics.intervals import intervals


class LabelScores(NamedTuple):
    """Several labels a clip and the scores of its classes: names [C], the rest [N, C]."""

    classes: list[str]
    targets: np.ndarray  # bool
    scores: np.ndarray
    untrained: int  # classes that training never saw


def scored_labels(
    labels: Sequence[Collection[str]], classes: Sequence[str], scores: np.ndarray
) -> LabelScores:
    """Return targets beside scores [N, C] of the trained `classes`, and of all other labels.

    A class that training never saw has the same score for every clip, the lowest of all scores: its
    average precision is the share of its clips, and it outranks no other class of a clip.
    """
    unseen = sorted({label for clip in labels for label in clip} - set(classes))
    names = [*classes, *unseen]
    place = {label: number for number, label in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), dtype=bool)
    for row, clip in zip(targets, labels, strict=True):
        row[[place[label] for label in clip]] = True
    constant = np.full((len(labels), len(unseen)), scores.min(), dtype=scores.dtype)
    return LabelScores(names, targets, np.hstack([scores, constant]), len(unseen))


def label_precision(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the label ranking average precision of each clip in percent [N]; both arrays [N, C].

    Of every label of the clip, the share of labels among the classes that score no less; the mean
    over its labels. 100 means that no other class scores as high as one of them.
    """
    precision = np.full(len(targets), np.nan)
    for n, (target, score) in enumerate(zip(targets, scores, strict=True)):
        own = score[target]
        if len(own):
            among_labels = (own >= own[:, None]).sum(axis=1)
            precision[n] = 100.0 * np.mean(among_labels / (score >= own[:, None]).sum(axis=1))
    return precision


class ClassScores(NamedTuple):
    """Numbers of each class [C].

    average_precision is nan without positives, auc also without negatives.
    """

    positives: np.ndarray
    average_precision: np.ndarray
    auc: np.ndarray

    def means(self) -> dict[str, float]:
        """Return mAP and mAUC in percent, over the classes that have them."""
        by_name = {"mAP": self.average_precision, "mAUC": self.auc}
        finite = {name: values[np.isfinite(values)] for name, values in by_name.items()}
        return {name: 100.0 * float(x.mean()) for name, x in finite.items() if len(x)}


@dataclass(frozen=True)
class Tagging:
    """Results of one gallery. `stated`: its part of metrics.json; by_class: columns [C]."""

    stated: dict[str, dict]
    by_class: dict[str, np.ndarray]


def report_tagging(
    targets: np.ndarray, scores: np.ndarray, classes: Sequence[str], clip_ids: Sequence[str]
) -> Tagging:
    """Return mAP with its interval, mAUC and d', the number of classes they are of, and a table.

    targets: bool [N, C]; scores: float [N, C], of any range. A metric that no class has is not
    stated. Raises UserError, with clip and class, for a score that is not finite.
    """
    found = class_scores(targets, scores, classes, clip_ids)
    counted, metrics = found.positives > 0, found.means()
    numbers: dict[str, float] = {
        "counted": int(counted.sum()),
        "without_positives": int((~counted).sum()),
    }
    statistics: dict[str, MeanPrecision] = {}
    if counted.any():
        statistics["mAP"] = MeanPrecision(targets[:, counted], scores[:, counted])
    if 0.0 < metrics.get("mAUC", 0.0) < 100.0:
        numbers["d_prime"] = d_prime(metrics["mAUC"] / 100.0)
    return Tagging(
        stated={
            "metrics": metrics,
            "intervals": intervals(statistics, len(targets)),
            "classes": numbers,
        },
        by_class={
            "class": np.array(classes),
            "positives": found.positives,
            "AP": 100.0 * found.average_precision,
            "AUC": 100.0 * found.auc,
        },
    )


def class_scores(
    targets: np.ndarray, scores: np.ndarray, classes: Sequence[str], clip_ids: Sequence[str]
) -> ClassScores:
    """Return average precision and ROC AUC of each class; targets bool, scores float, both [N, C].

    Only clips with the class are looked at: precision is the share of positives among the clips
    that score no less. AUC is the probability that a positive scores above a negative; equals count
    half. Raises UserError, with clip and class, for a score that is not finite.
    """
    _check_finite(scores, classes, clip_ids)
    n, positives = len(targets), targets.sum(axis=0)
    average_precision, auc = np.full((2, len(positives)), np.nan)
    for c in np.flatnonzero(positives):
        column = np.sort(scores[:, c])
        own = np.sort(scores[targets[:, c], c])
        least, above = (n - np.searchsorted(column, own, side) for side in ("left", "right"))
        own_least, own_above = (
            len(own) - np.searchsorted(own, own, side) for side in ("left", "right")
        )
        average_precision[c] = np.mean(own_least / least)
        if len(own) < n:
            wrong = (least - own_least) + (above - own_above)  # negatives, once for above and equal
            auc[c] = 1.0 - wrong.mean() / (2 * (n - len(own)))
    return ClassScores(positives, average_precision, auc)


def d_prime(auc: float) -> float:
    """Return the distance of two normal distributions of deviation 1 with this AUC."""
    return 2**0.5 * NormalDist().inv_cdf(auc)


@dataclass(frozen=True)
class MeanPrecision:
    """mAP in percent as a statistic of clips (`metrics/intervals.py`); both arrays [N, C].

    Copies of a clip count once in its own precision: a clip would otherwise support itself, and
    draws would be better than the sample, most of all in rare classes. A class without positives in
    a draw is left out of it; a draw without any counts 0.
    """

    targets: np.ndarray
    scores: np.ndarray

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """Return mAP [B] when clip n counts weights[b, n] times (whole numbers)."""
        draws = _Draws(weights)
        total, counted = np.zeros((2, len(weights)))
        for target, score in zip(self.targets.T, self.scores.T, strict=True):
            if target.any():
                precision = _average_precision(target, score, draws)
                total += np.nan_to_num(precision)
                counted += np.isfinite(precision)
        return 100.0 * total / np.maximum(counted, 1)

    def exchanged(self, other: "MeanPrecision", swap: np.ndarray) -> np.ndarray:
        """Return other's mAP less this one's [B], clips exchanged where swap [B, N] is 1.

        Both runs stand in one list of 2 N clips, where weights choose the run of each clip.
        """
        both = MeanPrecision(
            np.concatenate([self.targets, other.targets]),
            np.concatenate([self.scores, other.scores]),
        )
        kept = 1 - swap
        return both.drawn(np.hstack([swap, kept])) - both.drawn(np.hstack([kept, swap]))


class _Draws:
    """Weights of B draws [B, N] and their sums: several draws share a word of 64 bits.

    A sum of words is exact in every draw, since no draw's total overflows its part of the word.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights
        small = weights.sum(axis=1).max(initial=0) < 1 << 16
        self.part = np.dtype(np.uint16 if small else np.uint32)
        parts, (draws, clips) = 8 // self.part.itemsize, weights.shape
        padded = np.zeros((-(-draws // parts) * parts, clips), self.part)
        padded[:draws] = weights
        lanes = padded.reshape(-1, parts, clips).transpose(0, 2, 1)
        self.words = np.ascontiguousarray(lanes).view(np.uint64)[..., 0]  # [words, N]

    def cumulative(self, clips: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the weight of clips[:end] for every end, rising from 1 [B, ends]."""
        clips, starts = clips[: ends[-1]], np.append(0, ends[:-1])
        sums = np.stack([np.add.reduceat(word[clips], starts) for word in self.words])
        each = sums.cumsum(axis=1)[..., None].view(self.part)  # [words, ends, parts]
        rows = each.transpose(0, 2, 1).reshape(-1, len(ends))
        return rows[: len(self.weights)].astype(np.float64)


def _average_precision(target: np.ndarray, score: np.ndarray, draws: _Draws) -> np.ndarray:
    """Return average precision [B] of one class with positives; nan in a draw without them."""
    order = np.argsort(-score)
    own = order[target[order]]  # best first
    thresholds, group, size = np.unique(-score[own], return_inverse=True, return_counts=True)
    least = np.searchsorted(-score[order], thresholds, side="right")
    hits = draws.cumulative(own, size.cumsum())[:, group]  # [B, P]
    clips = draws.cumulative(order, least)[:, group]
    copies = draws.weights[:, own]
    others = copies - 1.0
    with np.errstate(invalid="ignore"):
        return (copies * (hits - others) / (clips - others)).sum(axis=1) / copies.sum(axis=1)


def _check_finite(scores: np.ndarray, classes: Sequence[str], clip_ids: Sequence[str]) -> None:
    """Raise UserError, with clip and class, for a score that is not finite."""
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise UserError(
            f"clip {clip_ids[row]}, class {classes[column]}: the score is not finite: the weights "
            "or the clip's features are corrupt. Fix: check the training curve, and run "
            "`clip4vla data verify`"
        )
