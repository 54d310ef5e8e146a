"""What a pre-training run leaves out, and how the number travels to the evaluation."""

import json

import pytest
from tiny_world import SPLITS, VERSION, build_world, finetune, pretrain

from clip4vla.checkpoints.initial_weights import initial_weights_metadata
from clip4vla.common.errors import UserError
from clip4vla.datasets.leaks import Leaks
from clip4vla.training import train as train_module
from clip4vla.training.train import train

FACTS = {"held_out": {"other-v1-000000": {"splits": ["test"], "videos": 3}}, "videos": 3}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"))


def test_held_out_clips_are_in_no_batch_and_are_counted(manifests, tmp_path, monkeypatch):
    jobs = []
    set_up = train_module.set_up
    monkeypatch.setattr(
        train_module, "set_up", lambda *given: jobs.append(set_up(*given)) or jobs[0]
    )
    # t0 and v0 are of held-out videos; so is e0, which no source of the run has
    leaks = Leaks({VERSION: frozenset({"t0", "v0", "e0"})}, FACTS)
    out = tmp_path / "out"
    train(pretrain(), manifests, None, {}, None, tmp_path / "state", out, leaks=leaks)
    seen = {clip_id for source in jobs[0].batches.sources for clip_id, _, _ in source.items}
    assert seen and not seen & {"t0", "v0", "e0"}
    summary = json.loads((out / "train.json").read_text())
    assert [facts["leaks_dropped"] for facts in summary["data"]["train"]] == [1, 1]
    assert summary["data"]["leaks"] == FACTS and summary["leaks_dropped"] == 2
    monkeypatch.undo()
    start, tuned = out / "model.safetensors", tmp_path / "tuned"
    train(finetune(), manifests, start, {}, None, tmp_path / "state2", tuned)
    assert initial_weights_metadata(tuned / "model.safetensors")["leaks_dropped"] == 2


def test_a_source_that_is_held_out_whole_is_refused_by_that_name(manifests, tmp_path):
    leaks = Leaks({VERSION: frozenset(SPLITS["train"])}, FACTS)
    given = manifests, None, {}, None, tmp_path / "state", tmp_path / "out"
    with pytest.raises(UserError, match="every clip is of a video in `held_out`"):
        train(pretrain(), *given, leaks=leaks)


def test_without_the_check_nothing_is_said(manifests, tmp_path):
    out = tmp_path / "out"
    train(pretrain(), manifests, None, {}, None, tmp_path / "state", out)
    assert "leaks_dropped" not in json.loads((out / "train.json").read_text())
