import os
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip4vla.config.run import Model
from clip4vla.errors import UserError
from clip4vla.models.archives import read_tensors
from clip4vla.models.build import build_model
from clip4vla.models.weights import load_into, read_metadata, save_model

TINY = {"architecture": "tiny", "weights": None}


def build(head=None, seed=1, **config):
    return build_model(Model(**TINY | config), {}, head, seed=seed)


def openai_state(seed=1):
    """A tiny model's CLIP under OpenAI's names, with its 49,408 words."""
    model = build(seed=seed)
    state = {f"visual.{k}": v.clone() for k, v in model.vision.state_dict().items()}
    state |= {k: v.clone() for k, v in model.text.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][:49408].clone()
    return state | {"logit_scale": torch.tensor(4.0)}


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
    with pytest.raises(UserError, match="start: weights:NAME"):
        build_model(config, {"mine": tmp_path / "model.safetensors"})


class Holder(torch.nn.Module):
    """A module tree with the given tensors, to be scripted."""

    def __init__(self, state, buffers=()):
        super().__init__()
        for name, value in state.items():
            if "." not in name:
                if name in buffers:
                    self.register_buffer(name, value)
                else:
                    setattr(self, name, torch.nn.Parameter(value))
        self.sizes = [1, 2]
        below = {name.split(".")[0] for name in state if "." in name}
        for part in sorted(below):
            start = part + "."
            inner = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            if part == "resblocks":
                blocks = [{k[2:]: v for k, v in inner.items() if k[0] == i} for i in "01"]
                self.resblocks = torch.nn.Sequential(*map(Holder, blocks))
            else:
                setattr(self, part, Holder(inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(self.sizes)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A TorchScript archive as OpenAI publishes CLIP: fp16, with sizes beside the weights."""
    state = {k: v.half() for k, v in openai_state(seed=5).items()}
    state |= {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}
    path = tmp_path_factory.mktemp("script") / "clip.pt"
    module = Holder(state, buffers=("input_resolution", "vocab_size"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, of torch.jit
        torch.jit.script(module).save(str(path))
    return path, state


def test_an_archive_gives_its_tensors_and_its_code_never_runs(archive):
    path, state = archive
    tensors = read_tensors(path)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in tensors.items())


def test_an_archive_of_clip_fills_the_model(archive):
    path, state = archive
    model = build_model(Model(architecture="tiny", weights="openai"), {"openai": path})
    block = state["visual.transformer.resblocks.1.mlp.c_fc.weight"]
    assert torch.equal(model.vision.transformer.resblocks[1].mlp.c_fc.weight, block.float())


class Bomb:
    """Runs a command when a plain unpickler reads it."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("disguised", [False, True], ids=["state dict", "archive"])
def test_a_file_that_would_run_something_is_refused(tmp_path, monkeypatch, disguised):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.pt"
    torch.save({"visual.conv1.weight": Bomb()}, path)
    if disguised:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("bomb/constants.pkl", b"")
    with pytest.raises(UserError) as error:
        load_into(build(), path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x08\0\0\0\0\0\0\0{broken}"])
def test_a_file_that_is_no_weight_file(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    refused(build(), path, "cannot be read as weights")


def test_a_training_state_and_foreign_names_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"epoch": 3, "state_dict": openai_state()}, path)
    refused(build(), path, "plain state dict")
    torch.save({"module.weight": torch.zeros(2)}, path)
    refused(build(), path, "module.weight")


def test_released_caption_head_must_be_tied(tmp_path):
    path = tmp_path / "released.bin"
    state = {
        "clip.visual.conv1.weight": torch.zeros(1),
        "clip.token_embedding.weight": torch.zeros(3, 2),
        "cls.predictions.decoder.weight": torch.ones(3, 2),
    }
    torch.save(state, path)
    refused(build("captioning"), path, "tied")
