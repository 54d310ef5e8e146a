"""Schedule, parameter groups and one update."""

import math

import pytest
import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Optimiser
from clip4vla.training.optimiser import Updates, parameter_groups
from clip4vla.training.schedule import rate_factor, warmup_cosine


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1405, 0.9993), (1406, 0.9755), (1500, 4.86e-4 / 5e-4), (7030, 0.5), (14060, 0.0)],
)
def test_schedule_has_the_released_values(step, factor):
    assert warmup_cosine(step, 14060, 0.1) == pytest.approx(factor, abs=5e-4)


def test_schedule_without_warmup_starts_at_its_peak():
    assert warmup_cosine(0, 10, 0.0) == 1.0


def test_a_step_schedule_halves_the_rate_in_each_epoch_after_the_constant_ones():
    """As torch's MultiStepLR with a milestone at each epoch from the second on."""
    config = Optimiser(schedule="step", step_from=2, epochs=5, warmup=0.0)
    factors = [rate_factor(config, step, 15) for step in range(15)]
    assert factors == [1.0] * 6 + [0.5] * 3 + [0.25] * 3 + [0.125] * 3
    warm = config.model_copy(update={"warmup": 0.2})
    assert [rate_factor(warm, step, 15) for step in range(4)] == [0, 1 / 3, 2 / 3, 1.0]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.probe = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_groups_hold_every_trainable_parameter_once():
    model = Model()
    config = Optimiser(lr=1e-3, head_lr=1e-2, weight_decay=0.2)
    groups = parameter_groups(model, config, ("probe.",))
    found = {
        (group["peak_lr"], group["weight_decay"]): [id(p) for p in group["params"]]
        for group in groups
    }
    assert found == {
        (1e-3, 0.2): [id(model.tower.weight)],
        (1e-3, 0.0): [id(p) for p in (model.tower.bias, model.norm.weight, model.norm.bias)],
        (1e-2, 0.0): [id(model.probe.weight), id(model.probe.bias)],
    }


def test_a_model_in_which_nothing_learns_is_refused():
    model = Model().requires_grad_(False)
    with pytest.raises(UserError, match="no parameter learns") as caught:
        parameter_groups(model, Optimiser(), ())
    assert "\n" not in str(caught.value)


def test_an_update_clips_and_follows_the_schedule():
    model = nn.Linear(2, 1, bias=False)
    config = Optimiser(lr=0.1, weight_decay=0.0, warmup=0.0, grad_clip=0.5)
    updates = Updates(model, config, total=10)
    before = model.weight.detach().clone()
    updates.scaled(3.0 * model.weight.sum()).backward()
    measured = updates(step=5)
    assert measured["grad_norm"] == pytest.approx(3 * math.sqrt(2), rel=1e-5)
    assert measured["lr"] == pytest.approx(0.05)
    # Adam's first update is the rate times the sign, however large the gradient was.
    assert torch.allclose(before - model.weight.detach(), torch.full((1, 2), 0.05), atol=1e-4)


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    updates = Updates(model, Optimiser(), total=10)
    updates.scaled(model.weight.sum() * torch.inf).backward()
    with pytest.raises(FloatingPointError):
        updates(step=5)
    assert torch.equal(model.weight, before)


def test_how_an_update_is_computed_is_no_part_of_a_checkpoint():
    """Older checkpoints of a CPU were updated tensor by tensor; all weights are in one pass."""
    model, config = Model(), Optimiser(lr=1e-2)
    updates = Updates(model, config, 10)
    model.tower(torch.ones(1, 3)).sum().backward()
    updates(3)
    state = updates.state_dict()
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = None
    again = Updates(model, config, 10)
    again.load_state_dict(state)
    assert {group["fused"] for group in again.optimiser.param_groups} == {True}
    assert again.optimiser.state[model.tower.weight]["step"] == 1


def with_float16(updates):
    """As on a GPU without bfloat16: the loss is scaled."""
    updates.scaler = torch.amp.GradScaler("cpu")
    return updates


def test_a_checkpoint_without_a_loss_scale_goes_on_with_one():
    model = nn.Linear(2, 1)
    plain = Updates(model, Optimiser(lr=0.1), total=10)
    scaled = with_float16(Updates(model, Optimiser(lr=0.1), total=10))
    scaled.load_state_dict(plain.state_dict())
    assert scaled.scaler.get_scale() == 2.0**16
    state = scaled.state_dict()
    state["scaler"]["scale"] = 8.0
    again = with_float16(Updates(model, Optimiser(lr=0.1), total=10))
    again.load_state_dict(state)
    assert again.scaler.get_scale() == 8.0
    plain.load_state_dict(state)  # and the other way round


def test_float16_skips_a_few_updates_and_refuses_a_gradient_that_stays_nan():
    model = nn.Linear(2, 1)
    before = model.weight.clone()
    updates = with_float16(Updates(model, Optimiser(lr=0.1, warmup=0.0), total=100))

    def update(step, factor):
        updates.scaled(factor * model(torch.ones(1, 2)).sum()).backward()
        return updates(step)

    assert update(0, math.nan)["loss_scale"] == 2.0**15
    assert torch.equal(model.weight, before)
    with pytest.raises(FloatingPointError, match="not finite"):
        for step in range(1, 40):
            update(step, math.nan)
    assert torch.equal(model.weight, before)
    updates.optimiser.zero_grad()
    updates = with_float16(Updates(model, Optimiser(lr=0.1, warmup=0.0), total=100))
    update(0, 1.0)
    assert not torch.equal(model.weight, before)
