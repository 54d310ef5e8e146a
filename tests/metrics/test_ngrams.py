"""Scores from n-grams that are counted once: the bits of pycocoevalcap's own."""

import random

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from clip4vla.metrics.ngrams import NgramCounts

WORDS = [
    "a",
    "the",
    "man",
    "dog",
    "plays",
    "runs",
    "guitar",
    "on",
    "in",
    "snow",
    "stage",
    "two",
    "red",
    "big",
    "fast",
    "naïve",
    "犬",
]


def captions(seed, clips=40):
    """References, one to five a clip, and hypotheses: near, equal, unknown words, long or empty."""
    chance = random.Random(seed)

    def caption(most=14):
        return " ".join(chance.choices(WORDS, k=chance.randint(0, most)))

    references = {f"c{n}": [caption() for _ in range(chance.randint(1, 5))] for n in range(clips)}
    hypotheses = {clip: [chance.choice([many[0], caption()])] for clip, many in references.items()}
    hypotheses |= {"c0": [""], "c1": ["zebra of zebra"], "c2": [caption(200)]}
    references["c3"] = ["", *references["c3"]]
    return references, hypotheses


def same(found, references, hypotheses):
    bleu, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    rouge, each_rouge = Rouge().compute_score(references, hypotheses)
    cider, each_cider = Cider().compute_score(references, hypotheses)
    assert (found.bleu, found.rouge, found.cider) == (bleu, rouge, cider)
    assert found.each_rouge.tolist() == each_rouge.tolist()
    assert found.each_cider.tolist() == each_cider.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_scores_have_the_bits_of_pycocoevalcap(seed):
    references, hypotheses = captions(seed)
    same(NgramCounts(references).score(hypotheses), references, hypotheses)


def test_references_that_were_counted_serve_any_clips_and_hypotheses():
    references, hypotheses = captions(7)
    counts = NgramCounts(references)
    counts.score({clip: ["unlike words before"] for clip in hypotheses})
    for clips in (["c5"], list(references)[10:30], list(references)):
        some = {clip: references[clip] for clip in clips}
        same(
            counts.score({clip: hypotheses[clip] for clip in clips}),
            some,
            {c: hypotheses[c] for c in clips},
        )
    fewer = {clip: many[:1] for clip, many in references.items()}
    same(counts.score(hypotheses, most=1), fewer, hypotheses)
