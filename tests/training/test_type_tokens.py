"""One audio type token for each source in pre-training, both tokens afterwards."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import MODEL, build_world, finetune, pretrain

from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.files import read_json
from clip4vla.config.planner import make_plan
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.training.train import train

REPO = Path(__file__).parents[2]
BOTH = MODEL.model_copy(update={"type_token": "both"})


@pytest.mark.parametrize(("stage", "differ"), [("pretrain", True), ("evaluate", False)])
def test_the_source_of_a_clip_is_heard_in_pretraining_alone_under_paper(stage, differ):
    config = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
    plan = make_plan(config, {"preset": "paper", "targets": ["demo_retrieval"]})
    run = plan.runs[plan.stage(stage)[0]]
    model = initial_model(run.model, run.inputs, None, {}).eval()
    sound = torch.randn(1, 2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        speech, other = (model.encode_audio(sound, mask, torch.tensor([w])) for w in (0.0, 1.0))
    assert torch.equal(speech, other) != differ


def test_fine_tuning_goes_on_with_both_tokens_and_records_it(tmp_path, capfd):
    manifests = build_world(tmp_path / "world")
    first, second = tmp_path / "first", tmp_path / "second"
    train(pretrain(), manifests, None, {}, None, first / "state", first / "out")
    start = first / "out" / "model.safetensors"
    assert "start_type_token" not in read_metadata(start)
    tuned = finetune(model=BOTH, start="0" * 12, missing_audio="filter")
    train(tuned, manifests, start, {}, None, second / "state", second / "out")
    assert "every clip has [VB] and [NB]" in capfd.readouterr().err
    assert read_json(second / "out" / "train.json")["start_type_token"] == "single"
    after = second / "out" / "model.safetensors"
    assert read_metadata(after)["start_type_token"] == "single"
    verbal, nonverbal = (
        (load_file(after)["audio.control_embedding"] - load_file(start)["audio.control_embedding"])
        .abs()
        .sum(dim=1)
    )
    assert verbal > 0 and nonverbal > 0, "both tokens are trained"
