import errno
import resource

import pytest
import torch
from foreign_weights import openai_state, script_archive
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common import tensor_files
from clip4vla.models.common.tensor_files import read_metadata, save_model

TINY = {"architecture": "tiny", "weights": None}


def build(head=None, seed=1, **config):
    return build_model(Model(**TINY | config), {}, head, seed=seed)


def refused(model, path, *words, fresh=()):
    """The one line that load_into refuses with; the model must not have changed."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_into(model, path, fresh)
    message = str(error.value)
    assert all(word in message for word in (str(path), *words)), message
    assert "\n" not in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_is_saved_comes_back(tmp_path):
    model, path = build("captioning"), tmp_path / "model.safetensors"
    save_model(path, model, {"step": 3, "run": {"seed": 1}})
    assert read_metadata(path) == {"step": 3, "run": {"seed": 1}}
    other = build("captioning", seed=2)
    load_into(other, path)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert not any("head.token_embedding" in name for name in load_file(path))  # saved once


def test_equal_models_give_equal_bytes(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_model(one, build(), {"c": [3], "a": 2, "b": 1})
    save_model(two, build(), {"a": 2, "b": 1, "c": [3]})
    assert one.read_bytes() == two.read_bytes()


def test_a_disk_that_fails_is_named(tmp_path):
    """A limit to the size of files fails as a full disk does, with another number."""
    path, (soft, hard) = tmp_path / "model.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError) as failed:
            save_model(path, build(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(path))
    assert not any(tmp_path.iterdir())


def test_what_safetensors_refuses_is_no_failure_of_the_disk(tmp_path, monkeypatch):
    for message, kind in (
        ("I/O error: No space left on device (os error 28)", OSError),
        ("header too large", SafetensorError),
    ):
        monkeypatch.setattr(tensor_files, "save_file", lambda *_, m=message, **__: throw(m))
        with pytest.raises(kind) as failed:
            save_model(tmp_path / "model.safetensors", build(), {})
        assert getattr(failed.value, "errno", None) in (None, errno.ENOSPC)


def throw(message):
    raise SafetensorError(message)


def test_a_fresh_part_starts_from_the_towers_just_loaded(tmp_path):
    path = tmp_path / "model.safetensors"
    source = build()
    save_model(path, source, {})
    model = build("captioning", seed=2)
    refused(model, path, "captioner.joint", "missing")
    load_into(model, path, fresh=("captioner",))
    assert torch.equal(model.text.text_projection, source.text.text_projection)
    joint = model.captioner.joint
    assert torch.equal(joint.positional_embedding, source.text.positional_embedding)
    load_into(model, path, fresh=("captioner", "audio"))
    assert torch.equal(model.audio.conv1.weight, source.vision.conv1.weight)


def test_a_part_of_the_file_that_the_model_lacks(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, build("captioning"), {})
    model = build(seed=2)
    refused(model, path, "captioner.head.bias", "left over")
    load_into(model, path, fresh=("captioner",))
    with pytest.raises(ValueError, match="not parts"):
        load_into(model, path, fresh=("captioning",))


def test_every_kind_of_mismatch_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, build(type_token="none"), {})
    refused(
        build(),
        path,
        "1 (audio.control_embedding) missing",
        "1 (audio.positional_embedding [50, 64] for [51, 64]) misshapen",
        "95 tensors expected, 93 found",
        "model.type_token",
    )
    state = load_file(path)
    state["vision.proj"] = state["vision.proj"].int()
    state["vision.extra"] = torch.zeros(1)
    save_file(state, path)
    refused(build(type_token="none"), path, "vision.proj is torch.int32", "vision.extra) left over")
    with pytest.raises(UserError, match="no metadata"):
        read_metadata(path)


@pytest.mark.parametrize("form", ["state dict", "safetensors", "legacy"])
def test_openai_names_in_half_precision_load_exactly(tmp_path, form):
    state = {k: v.half() for k, v in openai_state(seed=5).items()}
    path = tmp_path / "clip.pt"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "state dict")
    config = Model(architecture="tiny", weights="openai")
    model = build_model(config, {"openai": path}, "captioning", seed=1)
    assert torch.equal(model.vision.proj, state["visual.proj"].float())
    assert model.vision.proj.dtype == torch.float32
    assert torch.equal(model.audio.proj, model.vision.proj)
    words = model.text.token_embedding.weight
    assert torch.equal(words[:49408], state["token_embedding.weight"].float())
    assert torch.equal(words[49408:], build(seed=1).text.token_embedding.weight[49408:])
    joint = model.captioner.joint
    assert torch.equal(joint.positional_embedding, state["positional_embedding"].float())
    assert model.logit_scale == 4.0


def test_clip_that_lacks_a_tensor_is_refused(tmp_path):
    state = openai_state()
    del state["visual.ln_post.bias"]
    torch.save(state, tmp_path / "clip.pt")
    config = Model(architecture="tiny", weights="openai")
    with pytest.raises(UserError, match=r"vision\.ln_post\.bias\) missing"):
        build_model(config, {"openai": tmp_path / "clip.pt"})


def test_a_whole_model_is_not_taken_for_clip(tmp_path):
    save_model(tmp_path / "model.safetensors", build(), {})
    config = Model(architecture="tiny", weights="mine")
    with pytest.raises(UserError, match="pretrain: {from: NAME}"):
        build_model(config, {"mine": tmp_path / "model.safetensors"})


def test_an_archive_of_clip_fills_the_model(tmp_path):
    path = tmp_path / "clip.pt"
    state = script_archive(path, openai_state(seed=5))
    model = build_model(Model(architecture="tiny", weights="openai"), {"openai": path})
    block = state["visual.transformer.resblocks.1.mlp.c_fc.weight"]
    assert torch.equal(model.vision.transformer.resblocks[1].mlp.c_fc.weight, block.float())


def test_values_that_are_not_numbers_are_named(tmp_path):
    path = tmp_path / "x.pt"
    state = build().state_dict()
    state["vision.proj"][3, 4] = float("nan")
    state["audio.proj"] = state["audio.proj"].half()
    state["audio.proj"][0, 0] = float("inf")
    torch.save(state, path)
    names = "vision.proj has NaN or infinite values", "audio.proj has NaN or infinite values"
    refused(build(), path, *names, "2 (", "95 tensors expected, 93 found")
    load_into(build(), path, fresh=("audio", "vision"))  # what is not taken is not judged


def test_weights_trained_with_another_activation(tmp_path):
    path, settings = tmp_path / "model.safetensors", {"model": {"activation": "gelu"}}
    save_model(path, build(activation="gelu"), settings)
    refused(build(), path, "model.activation: gelu", "the run has quick_gelu")
    load_into(build(activation="gelu"), path)


def saved_with(token, path):
    save_model(path, build(type_token=token), {"model": {"type_token": token}})
    return path


def test_one_type_token_goes_on_as_both_and_says_so(tmp_path, capfd):
    """facts 3.2: the position of the one token, the 51st of ViT-B/32, serves both."""
    path = saved_with("single", tmp_path / "one.safetensors")
    model = build(type_token="both", seed=2)
    load_into(model, path)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "every clip has [VB] and [NB]" in said and str(path) in said
    source = load_file(path)
    assert torch.equal(model.audio.control_embedding, source["audio.control_embedding"])
    sound = torch.randn(1, 3, 224, 224)
    before_block = model.audio._embeds(sound, torch.zeros(1))
    assert before_block.shape[1] == len(source["audio.positional_embedding"]) + 1
    own = source["audio.control_embedding"] + source["audio.positional_embedding"][-1]
    assert torch.allclose(before_block[0, -2:], model.audio.ln_pre(own), atol=1e-6)
    load_into(build(type_token="single"), path)
    assert capfd.readouterr().err == ""


def test_type_tokens_that_look_alike_are_told_apart_by_the_metadata(tmp_path):
    path = saved_with("both", tmp_path / "both.safetensors")
    refused(build(type_token="single"), path, "type_token: both", "Fix: set model.type_token: both")
    load_into(build(type_token="both"), path)
    load_into(build(type_token="single"), path, fresh=("audio",))


def test_foreign_names_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"encoder.weight": torch.zeros(2)}, path)
    refused(build(), path, "encoder.weight")


def test_released_caption_head_must_be_tied(tmp_path):
    path = tmp_path / "released.bin"
    state = {
        "clip.visual.conv1.weight": torch.zeros(1),
        "clip.token_embedding.weight": torch.zeros(3, 2),
        "cls.predictions.decoder.weight": torch.ones(3, 2),
    }
    torch.save(state, path)
    refused(build("captioning"), path, "ties the caption head")
