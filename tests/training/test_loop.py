"""The loop with a stub task: selection, stopping, time limits, losses that are not finite."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from clip4vla.common.errors import RetryLater
from clip4vla.config.sections import Optimiser
from clip4vla.training.attempts import NotFinite
from clip4vla.training.checkpoint import Checkpoints
from clip4vla.training.curve import Curve, publish_curve
from clip4vla.training.loop import Trainer
from clip4vla.training.ranks import Ranks
from clip4vla.training.selection import SelectionRule
from clip4vla.training.stop import Stop


class StubTask:
    """Fits noise with dropout; validation gives the scripted values."""

    heads = ()
    selection_metric = "accuracy"  # it is its own validation

    def __init__(self, scores=(), during_validation=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.scripted, self.during_validation = list(scores), during_validation
        self.validated = 0

    def loss(self, batch):
        loss = (self.model(batch["x"]) - 1).square().mean() * batch["scale"]
        return loss, {"term": loss / 2}

    def targets(self, batch):
        return len(batch["x"])

    def part(self):
        return [1, 2]

    def scores(self, parts):
        assert parts == [1, 2]
        assert not self.model.training
        if self.during_validation:
            self.during_validation()
        self.validated += 1
        return {"accuracy": self.scripted.pop(0)} if self.scripted else {}


class StubBatches:
    steps, size = 3, 2

    def __init__(self, scale=1.0, on_step=None):
        self.scale, self.on_step = scale, on_step

    def __call__(self, epoch, consumed):
        for step in range(consumed // self.size, self.steps):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            if self.on_step:
                self.on_step(epoch, step)
            x = torch.randn(self.size, 3, generator=generator)
            clips = [f"clip{2 * step}", f"clip{2 * step + 1}"]
            yield [{"clip_id": clips, "x": x, "scale": self.scale}]


def trainer(folder, task=None, batches=None, **given):
    config = Optimiser(lr=0.01, epochs=4, batch_size=2)
    checkpoints = Checkpoints(folder / "state", {"config": "a"})
    task = task or StubTask()
    given = {"device": torch.device("cpu"), "validation": task, **given}
    return Trainer(task, batches or StubBatches(), config, checkpoints, folder, **given)


def weights(task):
    return torch.cat([p.detach().flatten() for p in task.model.parameters()])


def run(one, max_seconds=None):
    with Stop(max_seconds) as stop:
        one.run(stop)
    return weights(one.task)


def test_stopping_after_every_step_changes_nothing(tmp_path):
    expected = run(trainer(tmp_path / "whole"))
    stops = 0
    while True:
        try:
            result = run(trainer(tmp_path / "parts"), max_seconds=0.0)
            break
        except RetryLater as stop:
            assert "saved" in str(stop)
            stops += 1
    assert stops == 4 * 3 + 3  # after every step, and after every epoch but the last
    assert torch.equal(result, expected)
    for name in ("whole", "parts"):
        publish_curve(tmp_path / name / "metrics.jsonl", tmp_path / f"{name}.jsonl")
    curve = (tmp_path / "whole.jsonl").read_bytes()
    assert curve == (tmp_path / "parts.jsonl").read_bytes()
    assert len(curve.splitlines()) == 12
    for volatile in ("timestamp_ms", "speed/samples_per_second", "speed/data_wait_share"):
        assert volatile in (tmp_path / "whole" / "metrics.jsonl").read_text()
        assert volatile not in curve.decode()


def test_a_rank_that_does_not_write_stays_until_the_checkpoint_is_there(tmp_path):
    """Launchers end the others soon after the first one that leaves."""
    waits = []

    class Second(Ranks):
        def barrier(self):
            waits.append(one.meter.saved)

    one = trainer(tmp_path, ranks=Second(1, 2))
    one.state.step = 5
    one._save()
    assert waits == [0] and one.meter.saved == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(tmp_path, number):
    def on_step(epoch, step):
        if (epoch, step) == (1, 1):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # Slurm and Snakemake each send one

    one = trainer(tmp_path / "parts", batches=StubBatches(on_step=on_step))
    with pytest.raises(RetryLater, match=f"step 5 of 12 .{number.name}."):
        run(one)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert torch.equal(run(trainer(tmp_path / "parts")), run(trainer(tmp_path / "whole")))


def test_a_signal_ends_validation_which_is_repeated(tmp_path):
    task = StubTask([1.0] * 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RetryLater, match="step 3 of 12"):
        run(trainer(tmp_path, task, selection=SelectionRule(selects=True)))
    assert task.validated == 0
    again = StubTask([1.0] * 4)
    run(trainer(tmp_path, again, selection=SelectionRule(selects=True)))
    assert again.validated == 4


def test_the_best_epoch_is_selected_and_ties_keep_the_earliest(tmp_path):
    at_epoch = []
    task = StubTask([2.0, 5.0, 5.0, 1.0], lambda: at_epoch.append(weights(task)))
    one = trainer(tmp_path, task, selection=SelectionRule(selects=True))
    assert torch.equal(run(one), at_epoch[1])
    assert (one.state.best_epoch, one.state.best_value, one.state.last_value) == (2, 5.0, 1.0)


def test_the_last_epoch_is_kept_without_selection(tmp_path):
    at_epoch = []
    task = StubTask([2.0, 5.0, 5.0, 1.0], lambda: at_epoch.append(weights(task)))
    assert torch.equal(run(trainer(tmp_path, task)), at_epoch[3])


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_log_and_the_curve_name_the_split_that_is_scored(tmp_path, capsys, split):
    run(trainer(tmp_path, StubTask([2.0] * 4), selection=SelectionRule(split=split)))
    assert capsys.readouterr().err.count(f", {split}/accuracy 2\n") == 4
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(f"{split}/accuracy" in row for row in rows) == 4


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_clips(tmp_path, scale):
    with pytest.raises(
        NotFinite, match="at step 0: gradients that are not finite: 0.weight, 0.bias"
    ) as caught:
        run(trainer(tmp_path, batches=StubBatches(scale)))
    assert "\n" not in str(caught.value)
    dump = json.loads((tmp_path / "not-finite-step-000000" / "report.json").read_text())
    assert dump["ranks"][0]["clip_ids"] == ["clip0", "clip1"]
    assert set(dump["terms"]) == {"term"}


def test_a_curve_is_cut_back_to_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    curve = Curve(path, 0)
    curve.add(1, 1, {"train/loss": 0.5})
    length = curve.sync()
    curve.add(2, 1, {"train/loss": 0.4})
    curve = Curve(path, length)
    assert curve.sync() == length  # before another row, too: a stop may save it
    curve.add(2, 1, {"train/loss": 0.3})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 0.5), (2, 0.3)]


def test_a_curve_that_lost_rows_is_a_warning(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    curve = Curve(path, 0)
    curve.add(1, 1, {"train/loss": 0.5})
    first = curve.sync()
    curve.add(2, 1, {"train/loss": 0.4})
    length = curve.sync()
    path.write_bytes(path.read_bytes()[:-3])
    curve = Curve(path, length)
    assert "shorter than at its checkpoint" in capsys.readouterr().err
    assert curve.sync() == first == path.stat().st_size
    path.unlink()
    assert Curve(path, length).sync() == 0
