import pytest
import torch
from encoded_clips import encoded_clips
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from clip4vla.models.clip4vla.bert import BertJointEncoder
from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.joint import JointEncoder
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.common.encoded import FeatureSequence, each

D, SCALE = 32, 100.0
CLOSE = {"rtol": 0.0, "atol": 1e-3}  # of similarities of size 100: 1e-5 of their size


def fusion(style=JointEncoder, layers=3):
    made = Fusion(style(D, 2, layers, 24), D, 8, 5).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        size = 1.0 if parameter.ndim == 1 and (parameter == 1).all() else 0.0
        parameter.data = size + 0.15 * torch.randn(parameter.shape, generator=generator)
    return made


FUSIONS = {
    "clip": fusion(),
    "bert": fusion(BertJointEncoder),
    "one layer": fusion(layers=1),
    "one bert layer": fusion(BertJointEncoder, layers=1),
}


def clips(number=7, texts=9, seed=1):
    """Texts of 1 to 8 words; clips of 0 to 5 frames and 0 to 4 segments, with holes."""
    generator = torch.Generator().manual_seed(seed)
    text, vision, audio = (
        torch.randn(n, length, D, generator=generator)
        for n, length in ((texts, 8), (number, 5), (number, 4))
    )
    words = torch.randint(1, 9, (texts, 1), generator=generator)
    vision_mask = torch.rand(number, 5, generator=generator) < 0.7
    audio_mask = torch.rand(number, 4, generator=generator) < 0.5
    vision_mask[0] = audio_mask[0] = False  # a clip with nothing
    vision_mask[1] = audio_mask[1] = True
    clip = encoded_clips(vision, vision_mask, audio, audio_mask)
    return text, torch.arange(8) < words, clip


def without(arguments, modality):
    text, words, clip = arguments
    return text, words, {name: sequence for name, sequence in clip.items() if name != modality}


@pytest.mark.parametrize("modality", [None, "vision", "audio"])
@pytest.mark.parametrize("name", FUSIONS)
def test_local_to_local_equals_the_padded_computation(name, modality):
    arguments = without(clips(), modality)
    with torch.inference_mode():
        padded = FUSIONS[name].local_to_local(*arguments, SCALE)
        assert torch.allclose(score_pairs(FUSIONS[name], *arguments, SCALE), padded, **CLOSE)
    assert padded.std() > 1.0


@pytest.mark.parametrize("modality", [None, "vision", "audio"])
@pytest.mark.parametrize("name", FUSIONS)
def test_tight_equals_the_padded_computation(name, modality):
    text, _, clip = without(clips(), modality)
    with torch.inference_mode():
        padded = FUSIONS[name].tight(text[:, 0], clip, SCALE)
        ours = score_pairs(FUSIONS[name], text[:, 0], None, clip, SCALE)
    assert torch.allclose(ours, padded, **CLOSE)
    assert padded.std() > 1.0


@pytest.mark.parametrize("block_tokens", [1, 20, 100, 1000, 10**6])
def test_the_size_of_blocks_changes_no_score(block_tokens):
    arguments = clips()
    whole = score_pairs(FUSIONS["clip"], *arguments, SCALE)
    assert torch.allclose(
        score_pairs(FUSIONS["clip"], *arguments, SCALE, block_tokens), whole, **CLOSE
    )


@settings(max_examples=15, deadline=None)
@for_all(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), st.integers(1, 300))
def test_any_texts_and_clips(number, texts, seed, block_tokens):
    arguments = clips(max(number, 2), texts, seed)
    with torch.inference_mode():
        padded = FUSIONS["clip"].local_to_local(*arguments, SCALE)
        ours = score_pairs(FUSIONS["clip"], *arguments, SCALE, block_tokens)
    assert torch.allclose(ours, padded, **CLOSE)


def test_order_and_company_do_not_matter():
    text, words, clip = clips()
    whole = score_pairs(FUSIONS["clip"], text, words, clip, SCALE)
    rows, columns = [8, 3, 5], [6, 0, 2, 4]
    some = each(clip, lambda x: x[columns])
    part = score_pairs(FUSIONS["clip"], text[rows], words[rows], some, SCALE)
    assert torch.allclose(part, whole[rows][:, columns], **CLOSE)


def test_padding_is_not_read_and_can_be_left_away():
    text, words, clip = clips()
    whole = score_pairs(FUSIONS["clip"], *clips(), SCALE)

    def noise(x, mask):
        return FeatureSequence(x + 1e3 * ~mask[..., None], mask)

    noisy = noise(text, words).features, words, {name: noise(*x) for name, x in clip.items()}
    assert torch.allclose(score_pairs(FUSIONS["clip"], *noisy, SCALE), whole, **CLOSE)
    audio, audio_mask = clip["audio"]
    deaf = text, words, clip | {"audio": FeatureSequence(audio, torch.zeros_like(audio_mask))}
    sight = without(clips(), "audio")
    assert torch.allclose(
        score_pairs(FUSIONS["clip"], *deaf, SCALE),
        score_pairs(FUSIONS["clip"], *sight, SCALE),
        **CLOSE,
    )


def test_no_block_is_larger_than_allowed(monkeypatch):
    """Counted where they pass the last layer; a single pair may be larger than the bound."""
    from clip4vla.models.clip4vla import pair_scoring

    sizes, real = [], pair_scoring._first_output
    monkeypatch.setattr(
        pair_scoring,
        "_first_output",
        lambda block, x, mask: sizes.append(x.shape) or real(block, x, mask),
    )
    score_pairs(FUSIONS["clip"], *clips(20, 20), SCALE, 60)
    assert all(count * length <= 60 for count, length, _ in sizes)
    assert sum(count for count, _, _ in sizes) == 400


def test_what_cannot_be_scored_is_refused():
    text, words, clip = clips()
    with pytest.raises(ValueError, match="first token of every text"):
        score_pairs(FUSIONS["clip"], text, ~words, clip, SCALE)
    with pytest.raises(ValueError, match="fusion.eval"):
        score_pairs(fusion().train(), text, words, clip, SCALE)


def test_pairs_are_scored_under_autocast():
    arguments = clips()
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_pairs(FUSIONS["clip"], *arguments, SCALE)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, score_pairs(FUSIONS["clip"], *arguments, SCALE), atol=30.0)
