import pytest
import torch

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model

TINY = {"architecture": "tiny", "weights": None}


def test_one_seed_gives_one_set_of_weights():
    """The global generators neither matter nor move; the head does not change the towers."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(Model(**TINY), {}, "captioning", seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_model(Model(**TINY), {}, "captioning", seed=7).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.state_dict().items())
    plain = build_model(Model(**TINY), {}, seed=7)
    assert all(torch.equal(value, second[name]) for name, value in plain.state_dict().items())
    other = build_model(Model(**TINY), {}, seed=8)
    assert not torch.equal(other.vision.proj, plain.vision.proj)
    assert not torch.equal(other.audio.control_embedding, plain.audio.control_embedding)


def test_the_audio_tower_starts_from_the_vision_tower():
    """Facts 3.3: every tensor of the same name, and the first 50 positions."""
    model = build_model(Model(**TINY), {}, seed=7)
    vision = model.vision.state_dict()
    for name, value in model.audio.state_dict().items():
        if name != "control_embedding":
            assert torch.equal(value[: len(vision[name])], vision[name])
    assert len(model.audio.positional_embedding) == 51
    scratch = build_model(Model(**TINY, audio_init="scratch"), {}, seed=7)
    assert torch.equal(scratch.vision.proj, model.vision.proj)
    same = [
        n
        for n, v in scratch.audio.state_dict().items()
        if n in vision and torch.equal(v[:50], vision[n][:50])
    ]
    assert all("bias" in name or "ln_" in name for name in same)


@pytest.mark.parametrize(("extra_position", "size"), [("scaled", 64**-0.5), ("released", 1.0)])
@pytest.mark.parametrize("audio_init", ["vision", "scratch"])
def test_the_size_of_the_type_token(extra_position, size, audio_init):
    config = Model(**TINY, extra_position=extra_position, audio_init=audio_init)
    audio = build_model(config, {}, seed=7).audio
    assert 0.7 * size < audio.positional_embedding[-1].std() < 1.3 * size
    assert 0.7 / 8 < audio.control_embedding.std() < 1.3 / 8


@pytest.mark.parametrize("head", ["captioning", "fusion"])
def test_the_joint_encoder_starts_from_the_text_tower(head):
    """Facts 7.2: positions and blocks, as far as the text tower has them (tiny has two)."""
    model = build_model(Model(**TINY), {}, head, seed=7)
    joint = (model.captioner or model.fusion).joint
    assert torch.equal(joint.positional_embedding, model.text.positional_embedding)
    text = model.text.transformer.resblocks
    for mine, theirs in zip(joint.transformer.resblocks, text, strict=False):
        assert all(torch.equal(v, theirs.state_dict()[n]) for n, v in mine.state_dict().items())
    again = build_model(Model(**TINY), {}, head, seed=7).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert len(joint.transformer.resblocks) == 4


def test_the_caption_head_is_tied_to_the_words():
    model = build_model(Model(**TINY), {}, "captioning", seed=7)
    assert model.captioner.head.token_embedding is model.text.token_embedding


def test_new_words_are_as_large_as_the_old_ones():
    rows = build_model(Model(**TINY), {}, seed=7).text.token_embedding.weight
    assert 0.5 < rows[49408:].std() / rows[:49408].std() < 2.0


def test_a_probe_has_its_classes():
    model = build_model(Model(**TINY), {}, "classification", n_classes=5)
    assert model.probe.linear.weight.shape == (5, 64)
    with pytest.raises(ValueError, match="n_classes"):
        build_model(Model(**TINY), {}, "classification")


def test_weights_that_the_config_does_not_name(tmp_path):
    with pytest.raises(UserError, match="'openai' is not under `weights`.*it has mine"):
        build_model(Model(architecture="tiny"), {"mine": tmp_path / "x.pt"})


def test_too_long_inputs_for_captioning():
    with pytest.raises(UserError, match="is 80, but the joint encoder has 77"):
        build_model(Model(**TINY), {}, "captioning", inputs=Inputs(max_words=58))
