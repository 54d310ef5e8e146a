"""Every supported kind of file becomes one of ours, whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from foreign_weights import openai_state, script_archive, tiny

from clip4vla.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from clip4vla.checkpoints.convert import convert
from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.importers import to_our_names, to_released_names
from clip4vla.models.common.tensor_files import save_model

LAYOUT = Path(__file__).parents[1] / "parity" / "reference" / "layout.json"
# What the released code trained, as (head, config, classes) of ours and what must be deduced.
RELEASED = {
    "pretrain": (None, {}, None, {"task": None}),
    "no token": (None, {"type_token": "none"}, None, {"model.type_token": "none"}),
    "background": (None, {"type_token": "background"}, None, {"model.type_token": "background"}),
    "retrieval": ("fusion", {"joint_layers": 3}, None, {"model.fusion": "global_to_local"}),
    "bert": ("fusion", {"joint": "bert"}, None, {"model.joint": "bert", "model.joint_layers": 4}),
    "caption": ("captioning", {"joint_layers": 2}, None, {"model.joint_layers": 2}),
    "bert caption": ("captioning", {"joint": "bert"}, None, {"task": "captioning"}),
    "gate by clip": ("gate", {"fusion": "feat2feat"}, None, {"model.fusion": "feat2sim"}),
    "gate by text": ("gate", {"fusion": "query2feat"}, None, {"model.fusion": "query2sim"}),
    "classes": ("classification", {}, 5, {"task": "classification", "classes": list("01234")}),
}


def parameters(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def released(name):
    """(our tensors, the same as the released code saves them: half precision where it has it)."""
    head, config, classes, _ = RELEASED[name]
    state = parameters(tiny(head, 5, classes, **config))
    for key in state:
        if key.startswith(("text.", "vision.", "audio.")) and key.endswith(("_weight", "proj")):
            state[key] = state[key].half()
    return state, to_released_names(state)


def at(settings, key):
    value = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_file_is_taken_whole_and_given_back(tmp_path, name):
    state, theirs = released(name)
    path, out = tmp_path / "pytorch_model.bin.4", tmp_path / "ours.safetensors"
    torch.save(theirs, path)
    found = convert(path)
    assert found.kind == "released" and found.coverage.complete
    assert found.settings.inputs.extra_segment  # as the released code reads clips (D5)
    assert found.settings.inputs.extra_word == (found.settings.task == "captioning")  # facts 8.2
    for key, value in RELEASED[name][3].items():
        assert at(found.settings, key) == value
    found.fill_model()
    write_checkpoint(out, found.model, found.settings, found.origin)
    again = parameters(read_checkpoint(out).model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[k], v.float()) for k, v in state.items())  # widened bit for bit
    assert all(v.dtype == torch.float32 for v in again.values())
    back = to_released_names(again)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[k], v.float()) for k, v in theirs.items())


@pytest.mark.parametrize(
    ("kind", "head"), [("pretrain", None), ("retrieval", "fusion"), ("caption", "captioning")]
)
def test_the_released_names_are_those_of_the_released_code(kind, head):
    """Against the names that the reference vectors were made with."""
    expected = json.loads(LAYOUT.read_text())["layouts"][kind]
    state = parameters(tiny(head))
    theirs = to_released_names(state)
    assert theirs.keys() == expected.keys()
    assert all(value.ndim == len(expected[name]) for name, value in theirs.items())
    assert to_our_names(Path("x"), "released", theirs).keys() == state.keys()


def test_gates_have_the_shapes_of_the_released_code():
    """Facts 7.1: Linear(1024 -> 2) on the clip, Conv1d(512 -> 2, k=1) on the text."""
    assert released("gate by clip")[1]["moe_embd.weight"].shape == (2, 128)
    assert released("gate by text")[1]["moe_embd.weight"].shape == (2, 64, 1)


def test_what_a_resume_file_has_beside_its_weights(tmp_path):
    theirs = released("retrieval")[1]
    torch.save(theirs | {"epoch": 2, "global_step": 9, "optimizer": {"lr": 1.0}}, tmp_path / "x")
    found = convert(tmp_path / "x")
    assert found.coverage.complete
    assert set(found.left_out) == {"epoch", "global_step", "optimizer"}


def test_garbage_that_pre_training_saved_is_dropped_by_name(tmp_path):
    """Facts 12.2: HEAD's pre-training saves a joint encoder and a head that never learned."""
    theirs = released("caption")[1]
    theirs["cross.positional_embedding"][0] = float("nan")  # uninitialised memory
    torch.save(theirs, tmp_path / "x")
    found = convert(tmp_path / "x")
    with pytest.raises(UserError, match=r"positional_embedding has NaN.*--drop"):
        found.fill_model()
    for drop in (("cross", "cls"), ("captioner",)):
        found = convert(tmp_path / "x", drop=drop)
        found.fill_model()
        assert found.settings.task is None and found.model.captioner is None
        assert found.origin["imported"]["dropped"] == sorted(drop)
    with pytest.raises(UserError, match="--drop crass: .*has no such part. Fix: .*cls, .*cross"):
        convert(tmp_path / "x", drop=("crass",))


def test_the_classifier_of_background_files_must_be_dropped(tmp_path):
    theirs = released("background")[1]
    assert "audio.visual.bg_embedding" in theirs
    theirs |= {"bg_linear.weight": torch.zeros(2, 64), "bg_linear.bias": torch.zeros(2)}
    torch.save(theirs, tmp_path / "x")
    with pytest.raises(UserError, match=r"2 \(bg_linear.weight, bg_linear.bias\) left over"):
        convert(tmp_path / "x").fill_model()
    convert(tmp_path / "x", drop=("bg_linear",)).fill_model()


@pytest.mark.parametrize("form", ["archive", "state dict", "training", "custom text"])
def test_clip_alone_becomes_a_model_with_a_fresh_audio_tower(tmp_path, form):
    path, state = tmp_path / "clip.pt", openai_state(seed=5)
    if form == "archive":
        state = script_archive(path, state)
    elif form == "training":
        torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif form == "custom text":
        text = {k for k in state if not k.startswith("visual.") and k != "logit_scale"}
        torch.save({f"text.{k}" if k in text else k: v for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    with pytest.raises(UserError, match=r"62 found: .*audio.*missing.*--fresh"):
        convert(path, overrides={"model": {"type_token": "none"}}).fill_model()
    found = convert(path, fresh=("audio",))
    found.fill_model()
    model = found.model
    words = state["token_embedding.weight"].float()
    assert torch.equal(model.text.token_embedding.weight[:49408], words)
    assert 0 < model.text.token_embedding.weight[49408:].std() < 0.1
    assert torch.equal(model.audio.proj, state["visual.proj"].float())
    assert any("activation" in line for line in found.assumed) == (form != "archive")
    out = tmp_path / "ours.safetensors"
    write_checkpoint(out, model, found.settings, found.origin)
    assert torch.equal(read_checkpoint(out).model.vision.proj, state["visual.proj"].float())


def test_what_the_user_says_wins_and_is_not_assumed(tmp_path):
    torch.save(released("retrieval")[1], tmp_path / "x")
    assumed = convert(tmp_path / "x").assumed
    keys = ["model.type_token", "nonverbal_share", "inputs.max_words", "inputs.max_frames"]
    assert [line.split(":")[0] for line in assumed] == [*keys, "model.fusion"]
    given = {
        "model": {"type_token": "both", "fusion": "tight"},
        "inputs": {"max_words": 20, "max_frames": 6},
        "nonverbal_share": 1.0,
    }
    found = convert(tmp_path / "x", overrides=given)
    assert found.assumed == []
    assert found.settings.model.fusion == "tight" and found.settings.inputs.max_words == 20
    found.fill_model()
    assert found.model.audio.type_token == "both" and found.model.fusion.max_words == 20
    with pytest.raises(UserError, match=r"model\.fusion"):
        convert(tmp_path / "x", overrides={"model": {"fusion": "loose_seq"}})
    with pytest.raises(UserError, match="did you mean type_token"):
        convert(tmp_path / "x", overrides={"model": {"type_tokens": "both"}})


def mclip4vla():
    """Vision and audio of MCLIP4VLA under its names, beside a text tower that is M-BERT."""
    state = released("pretrain")[1]
    vision = {k: v for k, v in state.items() if k.startswith("clip.visual.")}
    theirs = {k.replace("clip.", "multilingualclip.", 1): v for k, v in vision.items()}
    theirs |= {k: v for k, v in state.items() if k.startswith("audio.")}
    theirs["multilingualclip.transformer.embeddings.LayerNorm.weight"] = torch.ones(9)
    theirs["multilingualclip.LinearTransformation.weight"] = torch.ones(64, 9)
    return theirs


def test_mclip4vla_gives_audio_and_vision_and_takes_its_text_from_clip(tmp_path):
    path, clip = tmp_path / "MCLIP4VLA.pt", tmp_path / "ViT-B-32.pt"
    theirs, state = mclip4vla(), openai_state(seed=8)
    torch.save(theirs, path)
    torch.save(state, clip)
    with pytest.raises(UserError, match=r"left over|missing"):
        convert(path).fill_model()
    with pytest.raises(UserError, match=r"--fresh text.*--clip PATH"):
        convert(path, fresh=("text",))
    found = convert(path, fresh=("text", "logit_scale"), clip=clip)
    assert found.kind == "mclip4vla"
    found.fill_model()
    assert torch.equal(found.model.text.text_projection, state["text_projection"])
    assert found.model.logit_scale == 4.0
    assert torch.equal(found.model.vision.proj, theirs["multilingualclip.visual.proj"].float())
    assert torch.equal(
        found.model.audio.control_embedding, theirs["audio.visual.control_embedding"]
    )
    assert found.origin["imported"]["clip"]["parts"] == ["logit_scale", "text"]


def test_mistakes_in_what_shall_be_fresh(tmp_path):
    path, clip = tmp_path / "x", tmp_path / "clip.pt"
    torch.save(released("pretrain")[1], path)
    torch.save(openai_state(), clip)
    for given, words in (
        ({"fresh": ("sound",)}, "--fresh sound: unknown part. Fix: choose from text, vision"),
        ({"fresh": ("captioner",)}, "--fresh captioner.*does not have it"),
        ({"clip": clip}, "no part is loaded from it"),
        ({"clip": path, "fresh": ("text",)}, "is of kind released. Fix: give a file of CLIP alone"),
    ):
        with pytest.raises(UserError, match=words):
            convert(path, **given)


def test_a_fresh_head_starts_from_the_text_tower(tmp_path):
    torch.save(released("caption")[1], tmp_path / "x")
    found = convert(tmp_path / "x", fresh=("captioner",))
    found.fill_model()
    joint, text = found.model.captioner.joint, found.model.text
    assert torch.equal(joint.positional_embedding, text.positional_embedding)
    assert found.settings.task == "captioning"


def test_a_joint_encoder_without_the_linear_map_of_pairs(tmp_path):
    theirs = released("bert")[1]
    theirs = {k: v for k, v in theirs.items() if not k.startswith("similarity_dense")}
    torch.save(theirs, tmp_path / "x")
    with pytest.raises(UserError, match="fusion.similarity.weight.* missing"):
        convert(tmp_path / "x").fill_model()
    found = convert(tmp_path / "x", fresh=("fusion.similarity",))
    found.fill_model()
    joint = found.model.fusion.joint
    assert torch.equal(joint.pooler.weight, theirs["cross.pooler.dense.weight"])


def test_older_files_of_ours_and_files_that_say_everything(tmp_path):
    path = tmp_path / "model.safetensors"
    model = tiny("classification", n_classes=3)
    save_model(path, model, {"run_key": "0" * 12, "classes": ["a", "b", "c"], "task": None})
    found = convert(path)
    found.fill_model()
    assert found.settings.classes == ["a", "b", "c"]
    assert found.origin["run_key"] == "0" * 12
    headless = convert(path, drop=("probe",)).settings
    assert headless.task is None and headless.classes is None
    given = {"model": {"type_token": "both"}, "classes": ["a", "b", "c"]}
    write_checkpoint(path, model, convert(path, overrides=given).settings, found.origin)
    again = convert(path, drop=("probe",))
    assert again.settings.model.type_token == "both" and again.assumed == []
    assert again.settings.task is None and again.settings.classes is None
    again.fill_model()


def test_sizes_that_no_architecture_has(tmp_path):
    state = openai_state()
    state["visual.conv1.weight"] = torch.zeros(64, 3, 8, 8)
    torch.save(state, tmp_path / "x")
    with pytest.raises(UserError, match="no known plain CLIP.*patch_size 8, vision_width 64"):
        convert(tmp_path / "x")
    with pytest.raises(UserError, match=r"vision.conv1.weight \[64, 3, 8, 8\] for .*misshapen"):
        convert(
            tmp_path / "x", ("audio",), overrides={"model": {"architecture": "tiny"}}
        ).fill_model()
