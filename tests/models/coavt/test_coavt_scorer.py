"""First scores of texts and clips, and second ones of pairs."""

import pytest
import torch
from coavt_cases import FAMILY, INPUTS, build, make_batch, model_section

from clip4vla.config.sections import Decoding
from clip4vla.models.coavt.scorer import rows_by_group
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.pooling import normalise

BOTH = ["vision", "audio"]


@pytest.fixture(scope="module")
def model():
    return build().eval()


@pytest.fixture(scope="module")
def batch():
    return make_batch(6, torch.float32)


@pytest.fixture(scope="module")
def scorer(model):
    return FAMILY.scorer(model, model_section(), BOTH, rescores=True)


@pytest.fixture(scope="module")
def features(model, scorer, batch):
    with torch.no_grad():
        own = model.encode_clips(batch, BOTH)
        return scorer.text_features(batch["tokens"]), scorer.clip_features(own)


def test_scores_are_the_largest_cosines_of_queries(model, scorer, batch, features):
    found = scorer.scores(*features, scale=2.0)
    with torch.no_grad():
        streams = model.streams(model.encode_clips(batch, BOTH))
        valid = model.text_ids.valid(batch["tokens"])
        states = model.query.text_alone(batch["tokens"], valid)
        text = normalise(model.text_proj(states[:, 0]))
        for name, stream in (("t_va", "av"), ("t_v", "vision"), ("t_a", "audio")):
            queries = normalise(model.query_proj(model.query.queries_alone(streams[stream])))
            expected = 2 * torch.einsum("nqd,td->tnq", queries, text).amax(dim=2)
            there = streams[stream].mask.any(dim=1)
            torch.testing.assert_close(found[name][:, there], expected[:, there])
            assert not found[name][:, ~there].any()
    assert not found["t_a"][:, 2].any() and not found["t_v"][:, 5].any()  # silent; without frames


def test_sounds_and_pictures_are_compared_by_mean_tokens(model, scorer, batch):
    with torch.no_grad():
        own = model.encode_clips(batch, BOTH)
        alone = [scorer.alone_features({name: own[name]}) for name in ("audio", "vision")]
        means = [
            normalise(model.streams({name: own[name]})[name].features[:2].mean(dim=1))
            for name in ("audio", "vision")
        ]
        found = scorer.scores(*alone, scale=3.0)["a_v"][:1, :1]
    torch.testing.assert_close(found, 3 * means[0][:1] @ means[1][:1].T)


def test_second_scores_are_those_of_each_pair_alone(model, scorer, batch, features):
    texts, clips = features
    cosine = scorer.scores(texts, clips, scale=1.0)["t_va"]
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    pairs = pairs[torch.randperm(36, generator=torch.Generator().manual_seed(0))[:25]]
    with torch.no_grad():
        found = scorer.rescored(texts, clips, pairs)
        for (text, clip), score in zip(pairs.tolist(), found.tolist(), strict=True):
            tokens = clips["tokens"][clip : clip + 1].float(), clips["mask"][clip : clip + 1]
            logits = model.matching_logits(
                batch["tokens"][text : text + 1], FeatureSequence(*tokens)
            )
            assert score == pytest.approx((logits[0, 1] + cosine[text, clip]).item(), abs=1e-5)


def test_tokens_are_kept_only_for_second_scores(model, batch, features):
    texts, clips = features
    assert clips["tokens"].dtype == torch.float16 and "words" in texts
    plain = FAMILY.scorer(model, model_section(), BOTH)
    with torch.no_grad():
        own = model.encode_clips(batch, BOTH)
        assert not {"tokens", "mask"} & set(plain.clip_features(own))
    assert set(plain.text_features(batch["tokens"])) == {"text"}


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_rows_hold_each_place_with_its_equals(size):
    groups = torch.tensor([3, 0, 3, 3, 7, 0, 3])
    rows = rows_by_group(groups, size)
    assert rows.shape[1] == min(size, 4)
    assert set(rows.flatten().tolist()) == set(range(7))
    assert all(len(set(groups[row].tolist())) == 1 for row in rows)


def test_captions_are_written_whatever_the_other_clips_are(model, batch):
    with torch.no_grad():
        own = model.encode_clips(batch, BOTH)
        written = model.write_captions(own, Decoding(), INPUTS.max_words)
        first = {name: FeatureSequence(x[:1], mask[:1]) for name, (x, mask) in own.items()}
        assert model.write_captions(first, Decoding(), INPUTS.max_words) == written[:1]
    assert len(written) == 6
