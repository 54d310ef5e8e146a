"""CLIP alone, taken out of a run's weights, is what `model.weights` accepts."""

import torch
from learning.clip_alone import write_clip

from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.tensor_files import save_model


def test_text_and_vision_arrive_and_audio_starts_from_vision(tmp_path):
    trained = build_model(Model(architecture="tiny", weights=None), {}, seed=3)
    save_model(tmp_path / "model.safetensors", trained, {})
    write_clip(tmp_path / "model.safetensors", tmp_path / "clip.safetensors")
    config = Model(architecture="tiny", weights="world")
    started = build_model(config, {"world": tmp_path / "clip.safetensors"}, seed=4)
    for part in ("text", "vision"):
        given, found = (getattr(model, part).state_dict() for model in (trained, started))
        assert all(torch.equal(given[name], found[name]) for name in given)
    assert torch.equal(started.audio.conv1.weight, trained.vision.conv1.weight)
