"""Averages of the weights: their values, their place in a run, their resume."""

import pytest
import torch
from test_loop import StubTask, run, trainer, weights
from torch import nn

from clip4vla.common.errors import RetryLater
from clip4vla.config.sections import Optimiser
from clip4vla.training.average import EpochMean, MovingAverage
from clip4vla.training.selection import SelectionRule

AVERAGES = {"moving": {"ema": 0.6}, "epochs": {"average_epochs": (2, 3)}}


def averaging(folder, task, kind="moving", **given):
    one = trainer(folder, task, **given)
    one.config = Optimiser(lr=0.01, epochs=4, batch_size=2, **AVERAGES[kind])
    return one


def test_values_follow_the_weights_that_learn():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1).requires_grad_(False))
    average, expected = MovingAverage(model, 0.6), model[0].weight.detach().clone()
    for step in range(8):
        model[0].weight.data += step
        average.after_update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    assert list(average.values) == ["0.weight"]
    assert torch.allclose(average.values["0.weight"], expected)
    own, frozen = model[0].weight.clone(), model[1].weight.clone()
    with pytest.raises(RuntimeError), average.in_place():
        assert torch.allclose(model[0].weight, expected)
        raise RuntimeError("interrupted")
    assert torch.equal(model[0].weight, own) and torch.equal(model[1].weight, frozen)


def test_validation_selection_and_the_end_have_the_average(tmp_path):
    for rule, kept in ((SelectionRule(), -1), (SelectionRule(selects=True), 1)):
        seen = []
        task = StubTask([2.0, 5.0, 4.0, 1.0], lambda: seen.append(weights(task)))  # noqa: B023
        folder = tmp_path / str(rule.selects)
        result = run(averaging(folder, task, selection=rule))
        assert torch.equal(result, seen[kept])
        plain = []
        task = StubTask([2.0, 5.0, 4.0, 1.0], lambda: plain.append(weights(task)))  # noqa: B023
        run(trainer(folder / "plain", task, selection=rule))
        assert not torch.equal(plain[kept], seen[kept])


def test_a_mean_over_epochs_is_that_of_their_ends():
    """Of bfloat16 weights too, and whether or not the end of an epoch is repeated."""
    model = nn.Linear(3, 2).to(torch.bfloat16)
    mean, ends = EpochMean(model, 2, 4), []
    own = model.weight.detach().clone()
    with mean.in_place():
        assert torch.equal(model.weight, own)  # no epoch yet
    for epoch in range(1, 6):
        model.weight.data.copy_(torch.rand(2, 3))
        ends.append(model.weight.detach().double())
        again = EpochMean(model, 2, 4)
        again.load_state_dict(mean.state_dict())
        for one in (mean, mean, again):
            one.after_epoch(epoch)
            if epoch >= 2:
                expected = torch.stack(ends[1 : min(epoch, 4)]).mean(0).to(torch.bfloat16)
                assert torch.equal(one.values["weight"], expected)
    mean.keep()
    assert torch.equal(model.weight, expected)


def test_a_run_validates_and_keeps_the_mean_of_its_epochs(tmp_path):
    seen, plain = [], []
    task = StubTask([1.0] * 4, lambda: seen.append(weights(task)))
    result = run(averaging(tmp_path / "mean", task, "epochs"))
    task = StubTask([1.0] * 4, lambda: plain.append(weights(task)))
    run(trainer(tmp_path / "plain", task))
    two_and_three = ((plain[1].double() + plain[2].double()) / 2).float()
    assert torch.equal(result, two_and_three)
    assert all(map(torch.equal, seen, [*plain[:2], two_and_three, two_and_three]))


@pytest.mark.parametrize(
    ("selects", "kind"), [(False, "moving"), (True, "moving"), (False, "epochs")]
)
def test_stopping_after_every_step_changes_nothing(tmp_path, selects, kind):
    def task():
        return StubTask([1.0, 3.0, 2.0, 1.0])

    rule = SelectionRule(selects=selects)
    expected = run(averaging(tmp_path / "whole", task(), kind, selection=rule))
    scores, stops = [1.0, 3.0, 2.0, 1.0], 0
    while True:
        one = averaging(tmp_path / "parts", task(), kind, selection=rule)
        one.task.scripted = scores
        try:
            result = run(one, max_seconds=0.0)
            break
        except RetryLater:
            stops += 1
    assert stops > 12
    assert torch.equal(result, expected)
