import pytest
import torch
from encoded_clips import encoded_clips

from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def fusion():
    inputs = Inputs(max_frames=3, max_segments=3, max_words=8)
    model = build_model(
        Model(architecture="tiny", weights=None), {}, "fusion", seed=3, inputs=inputs
    )
    return model.fusion.eval()


@pytest.fixture(scope="module")
def given(clips):
    """Towers' outputs: 10 texts of 8 tokens (more than one block of queries) and 4 clips."""
    generator = torch.Generator().manual_seed(9)
    masks = clips["frame_mask"], clips["audio_mask"]
    vision, audio = (torch.randn(4, 3, 64, generator=generator) for _ in range(2))
    words = torch.arange(8) < torch.arange(10)[:, None].clamp(2, 8)
    text = torch.randn(10, 8, 64, generator=generator)
    return text, words, vision, masks[0], audio, masks[1]


def both_of(encoded):
    return encoded["vision"].features, encoded["audio"].features


def test_a_clip_does_not_depend_on_its_batch(fusion, given):
    _, _, vision, vision_mask, audio, audio_mask = given
    with torch.inference_mode():
        seen, heard = both_of(fusion.global_to_local(encoded_clips(*given[2:])))
        alone = [x[[1]] for x in (vision[:, :1], vision_mask[:, :1], audio, audio_mask)]
        seen_alone, heard_alone = both_of(fusion.global_to_local(encoded_clips(*alone)))
    assert torch.allclose(seen_alone, seen[[1], :1], **CLOSE)
    assert torch.allclose(heard_alone, heard[[1]], **CLOSE)


def test_each_modality_reads_the_other(fusion, given):
    _, _, vision, vision_mask, audio, audio_mask = given
    with torch.inference_mode():
        both = fusion.global_to_local(encoded_clips(*given[2:]))["vision"].features
        alone = fusion.global_to_local(encoded_clips(vision, vision_mask, None, None))
    silent = ~audio_mask.any(dim=1)
    assert list(alone) == ["vision"]
    sight = alone["vision"].features
    assert torch.allclose(both[silent], sight[silent], **CLOSE)
    assert not torch.allclose(both[~silent], sight[~silent], **CLOSE)


def test_the_temporal_encoder_adds_what_frames_read_to_what_they_were(fusion, given):
    _, _, vision, vision_mask, audio, audio_mask = given
    with torch.inference_mode():
        mixed = fusion.global_to_local(encoded_clips(vision, vision_mask, None, None))
        found = fusion.mix("temporal")(encoded_clips(*given[2:]))
    assert torch.equal(found["vision"].features, vision + mixed["vision"].features)
    assert found["audio"].features is audio


def test_the_temporal_encoder_has_no_dropout():
    config = Model(architecture="tiny", weights=None, fusion="temporal")
    fusion = build_model(config, {}, "fusion", inputs=Inputs(max_words=8)).fusion.train()
    vision, mask = torch.randn(2, 3, 64), torch.ones(2, 3, dtype=torch.bool)
    clips = encoded_clips(vision, mask, None, None)
    once, again = (fusion.temporal(clips)["vision"].features for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("method", ["tight", "local_to_local"])
def test_a_pair_does_not_depend_on_the_other_pairs(fusion, given, method):
    text, words, *clips = given
    one_clip = encoded_clips(*(x[[3]] for x in clips))
    with torch.inference_mode():
        if method == "tight":
            scores = fusion.tight(text[:, 0], encoded_clips(*clips), 100.0)
            one = fusion.tight(text[[9], 0], one_clip, 100.0)
        else:
            scores = fusion.local_to_local(text, words, encoded_clips(*clips), 100.0)
            one = fusion.local_to_local(text[[9]], words[[9]], one_clip, 100.0)
    assert scores.shape == (10, 4)
    assert torch.allclose(one, scores[9:, 3:], rtol=1e-3, atol=1e-3)
