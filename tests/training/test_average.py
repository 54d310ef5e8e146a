"""The moving average of the weights: its values, its place in a run, its resume."""

import pytest
import torch
from test_loop import StubTask, run, trainer, weights
from torch import nn

from clip4vla.common.errors import RetryLater
from clip4vla.config.sections import Optimiser
from clip4vla.training.average import Average
from clip4vla.training.selection import SelectionRule


def averaging(folder, task, **given):
    one = trainer(folder, task, **given)
    one.config = Optimiser(lr=0.01, epochs=4, batch_size=2, ema=0.6)
    return one


def test_values_follow_the_weights_that_learn():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1).requires_grad_(False))
    average, expected = Average(model, 0.6), model[0].weight.detach().clone()
    for step in range(8):
        model[0].weight.data += step
        average.update(step)
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


@pytest.mark.parametrize("selects", [False, True])
def test_stopping_after_every_step_changes_nothing(tmp_path, selects):
    def task():
        return StubTask([1.0, 3.0, 2.0, 1.0])

    rule = SelectionRule(selects=selects)
    expected = run(averaging(tmp_path / "whole", task(), selection=rule))
    scores, stops = [1.0, 3.0, 2.0, 1.0], 0
    while True:
        one = averaging(tmp_path / "parts", task(), selection=rule)
        one.task.scripted = scores
        try:
            result = run(one, max_seconds=0.0)
            break
        except RetryLater:
            stops += 1
    assert stops > 12
    assert torch.equal(result, expected)
