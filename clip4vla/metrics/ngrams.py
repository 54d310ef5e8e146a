"""BLEU, ROUGE-L and CIDEr from words that are counted once, with pycocoevalcap's bits.

pycocoevalcap counts the n-grams of every reference for BLEU and again for CIDEr, whenever captions
are scored, and takes the logarithm of a frequency for each of them. Here references are counted
once. Floats are added in pycocoevalcap's order.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from clip4vla.metrics.caption_tokens import Captions

LONGEST = 4  # n-gram
BETA, SIGMA = Rouge().beta, CiderScorer().sigma
Grams = dict[int, int]  # number of an n-gram -> how often it occurs


class NgramScores(NamedTuple):
    """Scores in 0..1 (CIDEr: 0..10) of clips, together and each; their counts for BLEU."""

    bleu: list[float]
    rouge: float
    cider: float
    each_rouge: np.ndarray
    each_cider: np.ndarray
    counts: list[dict[str, Any]]  # as `BleuScorer.ctest`


class Counted(NamedTuple):
    """A tokenised caption, its number of words and its n-grams in pycocoevalcap's order."""

    text: str
    length: int
    grams: Grams


class NgramCounts:
    """The n-grams of references, to score hypotheses against. All captions are tokenised."""

    def __init__(self, references: Captions):
        self._numbers: dict[tuple[str, ...], int] = {}
        self._places: list[int] = []  # length of each n-gram, less one
        self._references = {clip: [*map(self._counted, many)] for clip, many in references.items()}

    def score(self, hypotheses: Captions, most: int | None = None) -> NgramScores:
        """Score one caption for each of some clips. most: references of a clip that count."""
        references = [self._references[clip][:most] for clip in hypotheses]
        spoken = [self._counted(caption) for (caption,) in hypotheses.values()]
        pairs = list(zip(spoken, references, strict=True))
        weights = self._weights(references)
        rouge = np.array([_rouge_l(own, others) for own, others in pairs])
        cider = np.array([self._cider(own, others, weights) for own, others in pairs])
        bleu = BleuScorer(n=LONGEST)
        bleu.ctest = [self._bleu_counts(own, others) for own, others in pairs]
        return NgramScores(
            bleu=bleu.compute_score(option="closest")[0],
            rouge=float(np.mean(rouge)),
            cider=float(np.mean(cider)),
            each_rouge=rouge,
            each_cider=cider,
            counts=bleu.ctest,
        )

    def _counted(self, caption: str) -> Counted:
        words = caption.split()
        grams: Grams = {}
        for size in range(1, LONGEST + 1):
            for start in range(len(words) - size + 1):
                gram = tuple(words[start : start + size])
                number = self._numbers.setdefault(gram, len(self._numbers))
                if number == len(self._places):
                    self._places.append(size - 1)
                grams[number] = grams.get(number, 0) + 1
        return Counted(caption, len(words), grams)

    def _bleu_counts(self, spoken: Counted, references: list[Counted]) -> dict[str, Any]:
        """Return what `cook_test` of pycocoevalcap's BLEU does."""
        correct = [0] * LONGEST
        for gram, count in spoken.grams.items():
            most = max([reference.grams.get(gram, 0) for reference in references])
            correct[self._places[gram]] += min(most, count)
        return {
            "reflen": [reference.length for reference in references],
            "testlen": spoken.length,
            "guess": [max(0, spoken.length - n) for n in range(LONGEST)],
            "correct": correct,
        }

    def _weights(self, references: list[list[Counted]]) -> list[float]:
        """Return CIDEr's weight of each n-gram: the logarithm of clips over clips that have it."""
        found = [0] * len(self._places)
        for many in references:
            for gram in set().union(*[reference.grams for reference in many]):
                found[gram] += 1
        whole = np.log(float(len(references)))
        weight = {count: float(whole - np.log(max(1.0, float(count)))) for count in set(found)}
        return [weight[count] for count in found]

    def _cider(self, spoken: Counted, references: list[Counted], weights: list[float]) -> float:
        """Return CIDEr-D of a clip, whose lengths are in bigrams."""
        own = {gram: count * weights[gram] for gram, count in spoken.grams.items()}
        length, norms = max(0, spoken.length - 1), self._norms(spoken.grams, weights)
        score = np.zeros(LONGEST)
        for reference in references:
            values, theirs = [0.0] * LONGEST, reference.grams
            for gram, value in own.items():
                if gram in theirs:
                    other = theirs[gram] * weights[gram]
                    values[self._places[gram]] += min(value, other) * other
            delta = float(length - max(0, reference.length - 1))
            penalty = np.e ** (-(delta**2) / (2 * SIGMA**2))
            products = [a * b for a, b in zip(norms, self._norms(theirs, weights), strict=True)]
            score += [
                (value / norm if norm else value) * penalty
                for value, norm in zip(values, products, strict=True)
            ]
        return 10.0 * float(np.mean(score) / len(references))

    def _norms(self, grams: Grams, weights: list[float]) -> list[float]:
        places, sums = self._places, [0.0] * LONGEST
        for gram, count in grams.items():
            sums[places[gram]] += (count * weights[gram]) ** 2
        return [math.sqrt(value) for value in sums]


def _rouge_l(spoken: Counted, references: list[Counted]) -> float:
    """Return ROUGE-L of a caption as pycocoevalcap's `calc_score` does."""
    words = spoken.text.split(" ")
    places: dict[str, int] = {}  # of each word, as bits
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    precision, recall = 0.0, 0.0
    for reference in references:
        others = reference.text.split(" ")
        common = _common(places, len(words), others)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(others))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(places: dict[str, int], length: int, words: list[str]) -> int:
    """Return the length of the longest common subsequence, by bits (Hyyrö 2004)."""
    whole = (1 << length) - 1
    free = whole  # zeros are where a longer subsequence ends
    for word in words:
        if matched := free & places.get(word, 0):
            free = (free + matched | free - matched) & whole
    return length - free.bit_count()
