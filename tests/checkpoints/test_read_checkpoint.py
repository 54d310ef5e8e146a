"""Our own files rebuild their model with nothing beside them."""

import subprocess
import sys

import pytest
import torch

import clip4vla
from clip4vla.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from clip4vla.common.errors import UserError
from clip4vla.config.data import Cache
from clip4vla.config.sections import Inputs
from clip4vla.config.settings import Settings
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.tensor_files import save_model

TINY = {"architecture": "tiny", "weights": None}
KINDS = {
    "pre-training": ({}, {}),
    "both type tokens": ({"type_token": "both"}, {"nonverbal_share": None}),
    "captioning": ({"joint_layers": 1}, {"task": "captioning"}),
    "bert": ({"joint": "bert", "fusion": "tight"}, {"task": "retrieval"}),
    "gate": ({"fusion": "query2sim"}, {"task": "retrieval"}),
    "pooled": ({}, {"task": "retrieval", "modalities": ["audio"]}),
    "probe": ({}, {"task": "classification", "classes": ["blue", "green", "red"]}),
}


def settings_for(kind):
    model, others = KINDS[kind]
    inputs = Inputs(max_frames=3, max_segments=4, max_words=9)
    log_mel = {"window": "hamming"}
    return Settings(
        model=Model(**TINY | model), inputs=inputs, cache=Cache(log_mel=log_mel), **others
    )


def build(settings, seed=5):
    classes = len(settings.classes) if settings.classes else None
    return build_model(
        settings.model, {}, settings.model.head(settings.task), classes, seed, settings.inputs
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_rebuilds_its_model(tmp_path, kind):
    path, settings = tmp_path / "model.safetensors", settings_for(kind)
    model = build(settings)
    write_checkpoint(path, model, settings, {"run_key": "0" * 12, "val_value": 31.5})
    found = read_checkpoint(path)
    assert found.settings == settings
    assert found.metadata["run_key"] == "0" * 12 and found.metadata["val_value"] == 31.5
    assert not found.model.training
    state = found.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    if found.model.captioner is not None:
        assert found.model.captioner.max_words == 9


def test_load_gives_the_checkpoint_and_importing_stays_light(tmp_path):
    path = tmp_path / "model.safetensors"
    settings = settings_for("pooled")
    write_checkpoint(path, build(settings), settings, {})
    assert clip4vla.load(path).settings.modalities == ["audio"]
    code = "import clip4vla, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_that_do_not_say_how_to_rebuild_them(tmp_path):
    path, settings = tmp_path / "model.safetensors", settings_for("pre-training")
    model = build(settings)
    save_model(path, model, {"run_key": "0" * 12})
    with pytest.raises(UserError, match="older version.*clip4vla checkpoint import"):
        read_checkpoint(path)
    save_model(path, model, {**settings.model_dump(mode="json"), "format": 99})
    with pytest.raises(UserError, match="format 99.*install the version"):
        read_checkpoint(path)
    later = settings.model_dump(mode="json") | {"format": 1}
    later["inputs"]["max_smells"] = 3
    save_model(path, model, later)
    with pytest.raises(UserError, match=r"inputs\.max_smells.*install the version"):
        read_checkpoint(path)
    torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match="no metadata.*clip4vla checkpoint import"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.safetensors")


def test_tensors_that_do_not_fit_what_the_file_says(tmp_path):
    path, settings = tmp_path / "model.safetensors", settings_for("captioning")
    write_checkpoint(path, build(settings_for("pre-training")), settings, {})
    with pytest.raises(UserError, match="captioner.* missing"):
        read_checkpoint(path)
