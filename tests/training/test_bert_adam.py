"""BertAdam against its formula, its groups, and what it does in float16 (facts 6.5, 6.6)."""

import numpy as np
import pytest
import torch
from torch import nn

from clip4vla.config.sections import Optimiser
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model
from clip4vla.training.bert_adam import BertAdam
from clip4vla.training.optimiser import Updates, parameter_groups
from clip4vla.training.schedule import warmup_cosine

BERT = {"kind": "bert_adam", "lr": 0.02, "head_lr": 0.05, "weight_decay": 0.2, "warmup": 0.25}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.text = nn.Linear(3, 4).double()
        self.fusion = nn.Linear(4, 2).double()


def test_updates_follow_the_formula_with_both_clips():
    """The formula of facts 6.5, in numpy: global clip, then each tensor's, moments, decay in lr."""
    model, config, total = Small(), Optimiser(**BERT), 8
    updates = Updates(model, config, total, ("fusion.",))
    named = dict(model.named_parameters())
    p = {name: value.detach().numpy().copy() for name, value in named.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    rng = np.random.default_rng(1)
    for step in range(total):
        size = 0.01 if step % 2 else 10.0  # neither clip acts, or both do
        g = {name: size * rng.standard_normal(value.shape) for name, value in p.items()}
        for name, parameter in named.items():
            parameter.grad = torch.from_numpy(g[name].copy())
        updates(step)

        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        for name in p:
            x = g[name] * min(1.0, 1.0 / (norm + 1e-6))
            x = x * min(1.0, 1.0 / (np.sqrt((x**2).sum()) + 1e-6))
            m[name] = 0.9 * m[name] + 0.1 * x
            v[name] = 0.98 * v[name] + 0.02 * x**2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name == "text.weight":
                update = update + 0.2 * p[name]
            rate = 0.05 if name.startswith("fusion.") else 0.02
            p[name] = p[name] - rate * warmup_cosine(step, total, 0.25) * update
            np.testing.assert_allclose(named[name].detach().numpy(), p[name], rtol=1e-12)


def test_each_tensor_is_clipped_by_itself():
    one, two = (nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimiser = BertAdam([{"params": [one, two], "weight_decay": 0.0}], 1.0, (0.9, 0.98), 1e-6, 0.5)
    one.grad, two.grad = torch.full((4,), 5.0), torch.full((4,), 0.1)
    optimiser.step()
    assert one.grad.norm() == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(two.grad, torch.full((4,), 0.1))
    # No bias correction: the first update is lr * 0.1 g / sqrt(0.02 g^2).
    assert torch.allclose(-two.detach(), torch.full((4,), 0.1 / 0.02**0.5), rtol=1e-4)


def groups_of(**given):
    """Names of the parameters by (peak rate, decay)."""
    config = Optimiser(kind="bert_adam", lr=1e-7)
    head = given.pop("head", None)
    base = Model(architecture="tiny", weights=None, joint_layers=1, **given)
    model = build_model(base, {}, head, n_classes=3).requires_grad_(True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    heads = ("captioner.", "fusion.", "gate.", "probe.", "logit_scale")
    return {
        (group["peak_lr"], group["weight_decay"]): {names[id(p)] for p in group["params"]}
        for group in parameter_groups(model, config, heads)
    }


def test_pretraining_decays_clip_and_not_the_audio_tower():
    groups = groups_of()
    decayed, plain = groups[1e-7, 0.2], groups[1e-7, 0.0]
    for name in ("ln_post.weight", "transformer.resblocks.0.ln_1.weight", "class_embedding"):
        assert f"vision.{name}" in decayed  # facts 6.5: CLIP's ln weights are decayed
        assert f"audio.{name}" in plain
    assert "text.token_embedding.weight" in decayed and "text.ln_final.weight" in decayed
    assert {name for name in decayed if "bias" in name} == set()
    assert {name.split(".")[0] for name in decayed} == {"text", "vision"}
    assert "vision.transformer.resblocks.0.attn.in_proj_bias" in plain


@pytest.mark.parametrize(
    ("head", "fusion"),
    [
        ("captioning", "global_to_global"),
        ("fusion", "global_to_local"),
        ("classification", "global_to_global"),
    ],
)
def test_with_a_joint_encoder_the_audio_tower_is_decayed_too(head, fusion):
    groups = groups_of(head=head, fusion=fusion)
    assert {name.split(".")[0] for name in groups[1e-7, 0.2]} == {"text", "vision", "audio"}
    part = {"captioning": "captioner", "fusion": "fusion", "classification": "probe"}[head]
    assert {name.split(".")[0] for name in groups[5e-4, 0.0]} == {part, "logit_scale"}
    assert all("bias" in name for name in groups[1e-7, 0.0])


def test_a_gate_leaves_the_audio_tower_undecayed():
    groups = groups_of(head="gate", fusion="feat2feat")
    assert {name.split(".")[0] for name in groups[1e-7, 0.2]} == {"text", "vision"}


def after(dtype, std):
    """Weights before and after 300 updates by gradients of this deviation, and the second moment.

    A part of the gradient, 0.3 of its deviation, is the same at every step.
    """
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter((0.02 * torch.randn(128, 128, generator=draw)).to(dtype))
    before = weight.detach().clone()
    groups = [{"params": [weight], "weight_decay": 0.0}]
    optimiser = BertAdam(groups, 1e-7, (0.9, 0.98), 1e-6, 1.0)
    constant = torch.randn(128, 128, generator=draw)
    for _ in range(300):
        noise = torch.randn(128, 128, generator=draw)
        weight.grad = (std * (0.3 * constant + 0.954 * noise)).to(dtype)
        optimiser.step()
    return (weight.detach().float() - before.float()).abs(), optimiser.state[weight]["v"]


def test_half_weights_have_the_measured_effect():
    """facts 6.6: 4.4e-4 against 7.3e-6 at a deviation of 1e-4; 9 % of weights move at 1e-5."""
    half, moment = after(torch.float16, 1e-4)
    full, full_moment = after(torch.float32, 1e-4)
    assert moment.dtype is torch.float16 and not moment.any()
    assert full_moment.all()
    assert half.mean().item() == pytest.approx(4.4e-4, rel=0.1)
    assert full.mean().item() == pytest.approx(7.3e-6, rel=0.1)
    assert 50 < half.mean() / full.mean() < 70
    few, _ = after(torch.float16, 1e-5)
    assert (few > 0).float().mean().item() == pytest.approx(0.09, abs=0.01)
