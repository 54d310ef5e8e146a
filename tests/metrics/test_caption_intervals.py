"""Bootstrap statistics of caption metrics, against pycocoevalcap on copied clips."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.rouge.rouge import Rouge

from clip4vla.metrics.caption_intervals import caption_statistics
from clip4vla.metrics.intervals import intervals
from clip4vla.metrics.ngrams import NgramCounts

HYPOTHESES = {
    "a": ["a man is playing a guitar on stage"],
    "b": ["two dogs run through the snow"],
    "c": [""],
    "d": ["the the the"],
    "e": ["a woman is cutting an onion in the kitchen"],
}
REFERENCES = {
    "a": ["a man plays guitar", "someone is playing a guitar on a stage"],
    "b": ["two dogs are running in snow", "dogs run"],
    "c": ["a car", "nothing here"],
    "d": ["the cat sat", "a cat"],
    "e": ["a woman is cutting an onion", "a woman cuts an onion in a kitchen"],
}


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1], [3, 0, 0, 1, 1], [0, 0, 5, 0, 0]])
def test_weighted_statistics_are_the_scores_of_copies(weights):
    found = caption_statistics(NgramCounts(REFERENCES).score(HYPOTHESES))
    clips = [clip for clip, n in zip(HYPOTHESES, weights, strict=True) for _ in range(n)]
    res = {str(i): HYPOTHESES[clip] for i, clip in enumerate(clips)}
    gts = {str(i): REFERENCES[clip] for i, clip in enumerate(clips)}
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    expected = {f"BLEU{n}": value for n, value in enumerate(bleu, start=1)}
    expected["ROUGE_L"] = Rouge().compute_score(gts, res)[0]
    drawn = {name: x.drawn(np.array([weights], float))[0] for name, x in found.items()}
    assert set(drawn) == {*expected, "CIDEr"}
    for name, value in expected.items():
        assert drawn[name] == pytest.approx(100 * value, rel=1e-9, abs=1e-12)


def test_an_interval_holds_its_score():
    whole = np.ones((1, len(HYPOTHESES)))
    found = caption_statistics(NgramCounts(REFERENCES).score(HYPOTHESES))
    for name, (low, high) in intervals(found, len(HYPOTHESES)).items():
        assert 0 <= low < found[name].drawn(whole)[0] < high
