"""Captions and scores of pairs on a GPU: those of the CPU in float32, alike with and without cache."""

import copy

import pytest
import test_decoding
import test_pair_scoring
import torch
from test_decoding import NAMES, WAYS, models  # noqa: F401

from clip4vla.common.device import autocast
from clip4vla.models.clip4vla.decoding import decode
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.common.encoded import each

pytestmark = pytest.mark.gpu
given = test_decoding.given  # its vision and audio, with masks


@pytest.mark.parametrize("decoding", WAYS, ids=NAMES)
@pytest.mark.parametrize("style", ["clip", "bert"])
def test_captions_are_those_of_the_cpu(gpu, models, given, decoding, style):  # noqa: F811
    expected = decode(models[style], given, decoding, 7)
    model = copy.deepcopy(models[style]).to(gpu)
    moved = each(given, lambda x: x.to(gpu))
    found = decode(model, moved, decoding, 7)
    test_decoding.same(found, expected, 1e-3)


@pytest.mark.parametrize("cache", [True, False])
def test_captions_in_half_precision(gpu, models, given, cache):  # noqa: F811
    """Their scores: words may differ where two are nearly as likely."""
    expected = decode(models["clip"], given, test_decoding.BEAM, 7)
    model = copy.deepcopy(models["clip"]).to(gpu)
    moved = each(given, lambda x: x.to(gpu))
    with autocast(gpu):
        way = test_decoding.BEAM.model_copy(update={"cache": cache})
        found = decode(model, moved, way, 7)
    scores = [caption.score for caption in found]
    assert scores == pytest.approx([caption.score for caption in expected], rel=0.1, abs=0.1)


@pytest.mark.parametrize("block_tokens", [40, None])
@pytest.mark.parametrize("name", test_pair_scoring.FUSIONS)
def test_scores_of_pairs_are_those_of_the_cpu(gpu, name, block_tokens):
    fusion, arguments = test_pair_scoring.FUSIONS[name], test_pair_scoring.clips()
    expected = score_pairs(fusion, *arguments, test_pair_scoring.SCALE)
    text, words, clip = arguments
    moved = text.to(gpu), words.to(gpu), each(clip, lambda x: x.to(gpu))
    there = copy.deepcopy(fusion).to(gpu)
    found = score_pairs(there, *moved, test_pair_scoring.SCALE, block_tokens)
    torch.testing.assert_close(found.cpu(), expected, rtol=0.0, atol=1e-2)
