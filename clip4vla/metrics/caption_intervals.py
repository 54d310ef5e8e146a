"""Caption metrics that can be bootstrapped: counts per clip whose sums give the corpus score."""

from collections.abc import Callable

import numpy as np

from clip4vla.metrics.intervals import Totals, mean
from clip4vla.metrics.ngrams import NgramScores

SMALL, TINY = 1e-9, 1e-15  # smoothing constants of pycocoevalcap's BLEU
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR 1.5, English, ranking
STAGES = np.array([1.0, 0.6, 0.8, 0.6])  # weight of a match: exact, stem, synonym, paraphrase


def caption_statistics(scores: NgramScores, meteor: np.ndarray | None = None) -> dict[str, Totals]:
    """Return BLEU1..4, METEOR, ROUGE_L and CIDEr x 100 as functions of bootstrap draws.

    meteor: [C, 23], METEOR's statistics of each clip of the scores; None leaves METEOR out. CIDEr's
    n-gram weights are those of all references in every draw.
    """
    lengths = [
        (
            part["testlen"],
            min((abs(length - part["testlen"]), length) for length in part["reflen"])[1],
        )
        for part in scores.counts
    ]
    counts = [(*part["correct"], *part["guess"]) for part in scores.counts]
    sums = np.concatenate([counts, lengths], axis=1).astype(np.float64)  # [C, 10]
    statistics = {f"BLEU{n}": Totals(sums, _bleu_of(n)) for n in (1, 2, 3, 4)}
    if meteor is not None:
        statistics["METEOR"] = Totals(meteor_sums(meteor), lambda x: 100.0 * meteor_of(x))
    for name, each in (("ROUGE_L", scores.each_rouge), ("CIDEr", scores.each_cider)):
        statistics[name] = mean(100.0 * each, np.arange(len(each)))
    return statistics


def _bleu_of(n: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: 100.0 * bleu(sums)[:, n - 1]


def bleu(sums: np.ndarray) -> np.ndarray:
    """Return BLEU1..4 [B, 4] of summed counts [B, 10]: matched and all n-grams, both lengths."""
    correct, guessed, length, reference = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    precision = np.cumprod((correct + TINY) / (guessed + SMALL), axis=1)
    ratio = (length + TINY) / (reference + SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precision ** (1 / np.arange(1, 5)) * brevity[:, None]


def meteor_sums(statistics: np.ndarray) -> np.ndarray:
    """Return METEOR's statistics [C, 23] to be summed: a perfect clip's one chunk counts as 0."""
    perfect = (statistics[:, 20] == 1) & (statistics[:, 21:23] == statistics[:, 0:2]).all(1)
    sums = statistics.copy()
    sums[perfect, 20] = 0.0
    return sums


def meteor_of(sums: np.ndarray) -> np.ndarray:
    """Return METEOR 1.5 [B], in 0..1, of sums [B, 23] of `meteor_sums`, as its EVAL computes it.

    Columns: words of hypothesis and reference, function words of both; for each stage matched
    content words of both, then function words of both; chunks; matched words of both.
    """
    lengths, functions = sums[:, 0:2], sums[:, 2:4]
    stages = sums[:, 4:20].reshape(len(sums), 4, 2, 2)  # stage, content or function, which side
    chunks, matched = sums[:, 20], sums[:, 21:23]
    kind = np.array([DELTA, 1 - DELTA])
    weights = kind[0] * (lengths - functions) + kind[1] * functions  # [B, 2]
    matches = np.einsum("bske,s,k->be", stages, STAGES, kind)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (matches / weights).T
        mean_of_both = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        penalty = GAMMA * (chunks / matched.mean(1)) ** BETA
        return np.nan_to_num(mean_of_both * (1 - penalty), nan=0.0)
