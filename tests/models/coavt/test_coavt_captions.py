"""Captions from queries: cached or not, greedily or by beam search."""

import pytest
import torch

from clip4vla.config.sections import Decoding
from clip4vla.loading.tokens import ControlTokens
from clip4vla.models.coavt.decoding import decode
from clip4vla.models.coavt.heads import LanguageHead
from clip4vla.models.common.encoded import FeatureSequence

CONTROL = ControlTokens(start=1, end=2)
WORDS = 8
BEAM = Decoding(method="beam", beams=3, length_penalty=0.6)


@pytest.fixture(scope="module")
def write(encoder, sizes, clip):
    torch.manual_seed(6)
    head = LanguageHead(sizes.query_width, sizes.vocabulary).double()
    torch.nn.init.normal_(head.dense.weight, std=0.5)
    torch.nn.init.normal_(head.bias)

    def write(decoding, rows=slice(None), max_words=WORDS):
        some = FeatureSequence(clip.features[rows], clip.mask[rows])
        return decode(encoder, head, some, decoding, CONTROL, max_words)

    write.head = head
    return write


@pytest.mark.parametrize("decoding", [Decoding(), BEAM])
def test_a_cache_changes_nothing(write, decoding):
    cached = write(decoding)
    plain = write(decoding.model_copy(update={"cache": False}))
    assert [caption.ids for caption in cached] == [caption.ids for caption in plain]
    scores = [caption.score for caption in plain]
    assert [caption.score for caption in cached] == pytest.approx(scores, abs=1e-6)
    assert len({tuple(caption.ids) for caption in cached}) > 1


@pytest.mark.parametrize("decoding", [Decoding(), BEAM])
def test_a_caption_does_not_depend_on_its_batch(write, decoding):
    together = [caption.ids for caption in write(decoding)]
    alone = [write(decoding, slice(row, row + 1))[0].ids for row in range(3)]
    assert alone == together


def test_greedy_words_are_the_likeliest_ones(write, encoder, clip):
    """By teacher forcing on the words before them."""
    for row, caption in enumerate(write(Decoding())):
        tokens = torch.tensor([[CONTROL.start, *caption.ids]])
        one = FeatureSequence(clip.features[row : row + 1], clip.mask[row : row + 1])
        _, states = encoder.together(tokens, torch.ones_like(tokens).bool(), one, causal=True)
        likeliest = write.head(states, encoder.words.weight).argmax(dim=-1)[0].tolist()
        ended = [] if len(caption.ids) == WORDS else [CONTROL.end]
        assert likeliest[: len(caption.ids) + len(ended)] == [*caption.ids, *ended]


def test_a_training_model_is_refused(write, encoder):
    encoder.train()
    try:
        with pytest.raises(ValueError, match=r"model.eval\(\)"):
            write(Decoding())
    finally:
        encoder.eval()
