"""Intervals of caption scores: per clip, what pycocoevalcap adds up to a score of the corpus."""

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from clip4vla.evaluation.intervals import Totals, intervals, mean

SMALL, TINY = 1e-9, 1e-15  # of pycocoevalcap's BLEU


def caption_statistics(
    references: dict[str, list[str]], hypotheses: dict[str, list[str]]
) -> dict[str, Totals]:
    """BLEU1..4, ROUGE_L and CIDEr x 100 as functions of draws of clips, of tokenised captions.

    hypotheses: one per clip of `references`, in the same order. CIDEr's n-grams keep the weights
    that all references give. METEOR is missing: its statistics stay in its Java program.
    """
    scorer = BleuScorer(n=4)
    for clip, (said,) in hypotheses.items():
        scorer += (said, references[clip])
    lengths = [
        (
            part["testlen"],
            min((abs(length - part["testlen"]), length) for length in part["reflen"])[1],
        )
        for part in scorer.ctest
    ]
    counts = [(*part["correct"], *part["guess"]) for part in scorer.ctest]
    sums = np.concatenate([counts, lengths], axis=1).astype(np.float64)  # [C, 10]
    clip = np.arange(len(hypotheses))
    found = {
        f"BLEU{n}": Totals(sums, lambda x, n=n: 100.0 * bleu(x)[:, n - 1]) for n in (1, 2, 3, 4)
    }
    for name, metric in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
        each = metric.compute_score(references, hypotheses)[1]
        found[name] = mean(100.0 * np.asarray(each), clip)
    return found


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU1..4 [B, 4] of summed counts [B, 10]: correct and all n-grams, both lengths."""
    correct, guessed, length, wanted = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    precision = np.cumprod((correct + TINY) / (guessed + SMALL), axis=1)
    ratio = (length + TINY) / (wanted + SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precision ** (1 / np.arange(1, 5)) * brevity[:, None]


def caption_intervals(
    references: dict[str, list[str]], hypotheses: dict[str, list[str]]
) -> dict[str, list[float]]:
    """[low, high] of every score but METEOR, of tokenised captions."""
    return intervals(caption_statistics(references, hypotheses), len(hypotheses))
