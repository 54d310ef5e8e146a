"""Checkpoints: whole round trips, two kept, damage skipped, strangers refused."""

import errno
import resource

import numpy as np
import pytest
import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Optimiser
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.optimiser import Updates

IDENTITY = {"config": "a", "data manifest": "b", "start weights": None}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))


def updates_of(model):
    return Updates(model, Optimiser(lr=0.1), total=10)


def learn(model, updates, step):
    updates.scaled(model(torch.randn(4, 3)).square().mean()).backward()
    return updates(step)


def test_a_disk_that_fails_is_named(tmp_path, model):
    """A limit to the size of files fails as a full disk does, with another number."""
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as failed:
            checkpoints.save(TrainState(step=4), model, updates_of(model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.errno == errno.EFBIG
    assert failed.value.filename == str(tmp_path / "step-000004.pt")
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_restores_weights_moments_and_position(tmp_path, model):
    model[0].requires_grad_(False)
    updates = updates_of(model)
    learn(model, updates, 3)
    state = TrainState(step=4, epoch=1, consumed=8, samples=16, curve_bytes=99)
    Checkpoints(tmp_path, IDENTITY).save(state, model, updates)

    def go_on():
        torch.manual_seed(1)
        learn(model, updates, 4)
        return model[1].weight.clone()

    first = go_on()
    assert "0.weight" not in torch.load(tmp_path / "step-000004.pt", weights_only=True)["model"]
    updates = updates_of(model)
    assert Checkpoints(tmp_path, IDENTITY).load(model, updates) == state
    again = go_on()
    assert torch.equal(first, again)


def test_two_checkpoints_are_kept_and_the_best_epochs_they_name(tmp_path, model):
    checkpoints, updates = Checkpoints(tmp_path, IDENTITY), updates_of(model)
    for step, best in [(1, 1), (2, 2), (3, 2), (4, 4)]:
        if best == step:
            checkpoints.save_best(best, model)
        checkpoints.save(TrainState(step=step, best_epoch=best), model, updates)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["best-0002.pt", "best-0004.pt", "step-000003.pt", "step-000004.pt"]
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "flip", "best"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, model, capsys, damage):
    checkpoints, updates = Checkpoints(tmp_path, IDENTITY), updates_of(model)
    for step in (1, 2):
        checkpoints.save_best(step, model)
        checkpoints.save(TrainState(step=step, best_epoch=step), model, updates)
    newest = tmp_path / "step-000002.pt"
    content = newest.read_bytes()
    match damage:
        case "cut":
            newest.write_bytes(content[: len(content) // 2])
        case "empty":
            newest.write_bytes(b"")
        case "noise":
            newest.write_bytes(np.random.default_rng(0).bytes(len(content)))
        case "flip":
            place = content.find(model[0].weight.detach().numpy().tobytes())
            newest.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        case "best":
            (tmp_path / "best-0002.pt").unlink()
    assert Checkpoints(tmp_path, IDENTITY).load(model, updates).step == 1
    assert "step-000001.pt: resuming from this checkpoint" in capsys.readouterr().err
    assert not newest.exists()


def test_a_run_without_a_readable_checkpoint_is_refused_and_keeps_its_files(tmp_path, model):
    checkpoints, updates = Checkpoints(tmp_path, IDENTITY), updates_of(model)
    checkpoints.save_best(1, model)
    for step in (1, 2):
        checkpoints.save(TrainState(step=step, best_epoch=1), model, updates)
    best = tmp_path / "best-0001.pt"
    content = best.read_bytes()
    best.write_bytes(content[:-100])  # both checkpoints name it
    for refused in (
        lambda: Checkpoints(tmp_path, IDENTITY).load(model, updates),
        lambda: checkpoints.load_best(1, model),
    ):
        with pytest.raises(UserError, match="restore a copy, or remove") as caught:
            refused()
        assert "\n" not in str(caught.value)
    best.write_bytes(content)
    assert Checkpoints(tmp_path, IDENTITY).load(model, updates).step == 2


def test_a_missing_checkpoint_is_no_error(tmp_path, model):
    assert Checkpoints(tmp_path, IDENTITY).load(model, updates_of(model)) is None


def test_the_state_of_another_run_is_refused(tmp_path, model):
    updates = updates_of(model)
    Checkpoints(tmp_path / "state", IDENTITY).save(TrainState(step=1), model, updates)
    other = Checkpoints(tmp_path / "state", {**IDENTITY, "data manifest": "c"})
    with pytest.raises(UserError, match="made with another data manifest. Fix: restore") as caught:
        other.load(model, updates)
    assert "\n" not in str(caught.value)


def test_other_parameters_are_refused(tmp_path, model):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(TrainState(step=1), model, updates_of(model))
    larger = nn.Sequential(*model, nn.Linear(2, 2))
    with pytest.raises(UserError, match="other parameters"):
        checkpoints.load(larger, updates_of(larger))


def test_best_weights_of_another_run_or_epoch_are_refused(tmp_path, model):
    mine = Checkpoints(tmp_path / "state", IDENTITY)
    other = Checkpoints(tmp_path / "state", {**IDENTITY, "config": "z"})
    other.save_best(3, model)
    with pytest.raises(UserError, match="made with another config. Fix: restore"):
        mine.load_best(3, model)
    mine.save_best(3, model)
    mine.load_best(3, model)
    (tmp_path / "state" / "best-0003.pt").rename(tmp_path / "state" / "best-0004.pt")
    words = r"best-0004\.pt: contains the state of best-0003\.pt \(3\)\. Fix: "
    with pytest.raises(UserError, match=words):
        mine.load_best(4, model)


def test_best_weights_of_an_older_version_name_no_epoch(tmp_path, model):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    tensors = dict(model.state_dict())
    torch.save({"identity": IDENTITY, "model": tensors}, tmp_path / "best-0003.pt")
    checkpoints.load_best(3, model)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path, model):
    checkpoints = Checkpoints(tmp_path / "state", IDENTITY)
    checkpoints.save(TrainState(step=1), model, updates_of(model))
    (tmp_path / "state" / "step-000001.pt").rename(tmp_path / "state" / "step-000500.pt")
    words = r"step-000500\.pt: contains the state of step-000001\.pt \(1\)\. Fix: "
    with pytest.raises(UserError, match=words) as error:
        checkpoints.load(model, updates_of(model))
    assert "\n" not in str(error.value)
