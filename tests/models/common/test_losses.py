"""Contrastive losses: the formulas spelled out. `tests/parity` has the reference's numbers."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clip4vla.models.common import losses
from clip4vla.models.common.losses import contrast, intra_modal, nce


def unit(rows, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator)
    return x / x.norm(dim=1, keepdim=True)


def test_one_direction_reads_rows_as_texts():
    logits = torch.tensor([[2.0, 1.0], [5.0, 3.0]])
    rows = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    columns = [math.log(1 + math.exp(3)), math.log(1 + math.exp(-2))]
    assert nce(logits, symmetric=False).item() == pytest.approx(sum(rows) / 2, rel=1e-6)
    assert nce(logits).item() == pytest.approx((sum(rows) + sum(columns)) / 4, rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_all_pairs_of_one_clip_are_positives(symmetric):
    logits = 3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(6))
    clips = torch.tensor([5, 7, 5, 9])
    pairs = [(i, j) for i in range(4) for j in range(4) if clips[i] == clips[j]]
    assert len(pairs) == 6

    def mean(table):
        rows = [sum(math.exp(float(x)) for x in row) for row in table]
        return -sum(float(table[i, j]) - math.log(rows[i]) for i, j in pairs) / len(pairs)

    expected = (mean(logits) + mean(logits.T)) / 2 if symmetric else mean(logits)
    found = nce(logits, symmetric, clips[:, None] == clips)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_with_one_positive_each_they_are_the_diagonal():
    x, y = unit(5, 8, 0), unit(5, 8, 1)
    same = torch.eye(5, dtype=torch.bool)
    assert contrast(x, y, 9.0, same=same).item() == pytest.approx(contrast(x, y, 9.0).item())


def test_a_learned_scale_gets_its_gradient():
    x, y, scale = unit(5, 8, 0), unit(5, 8, 1), torch.tensor(9.0, requires_grad=True)
    (contrast(x, y, scale) + intra_modal(x, y, scale)).backward()
    step = 1e-2
    values = [contrast(x, y, s) + intra_modal(x, y, s) for s in (9 - step, 9 + step)]
    slope = (values[1] - values[0]).item() / (2 * step)
    assert scale.grad.item() == pytest.approx(slope, rel=1e-2)


LOSSES = {
    "rows": lambda x, y, scale: contrast(x, y, scale, symmetric=False),
    "both": contrast,
    "positives": lambda x, y, scale: contrast(x, y, scale, same=POSITIVE),
    "views": intra_modal,
}
POSITIVE = (torch.arange(40) % 37)[:, None] == torch.arange(40) % 37


class Largest(TorchDispatchMode):
    """The numbers of the largest tensor of floats that is made within it."""

    size = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.parametrize("name", LOSSES)
def test_large_batches_are_contrasted_in_blocks(name, monkeypatch):
    """The same loss and gradients, by the logits of a few rows at once."""
    found, sizes = [], []
    for rows in (40, 6):
        monkeypatch.setattr(losses, "ROWS", rows)
        given = [unit(40, 4, 0), unit(40, 4, 1), torch.tensor(9.0)]
        for x in given:
            x.requires_grad_()
        with Largest() as largest:
            loss = LOSSES[name](*given)
            loss.backward()
        found.append([loss.detach(), *(x.grad for x in given)])
        sizes.append(largest.size)
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole)
    assert sizes[0] >= 40 * 40 and sizes[1] <= 6 * 80


def test_contrast_scales_the_cosines():
    x, y = unit(4, 8, 0), unit(4, 8, 1)
    assert torch.equal(contrast(x, y, 100.0), nce(100.0 * x @ y.T))


@pytest.mark.parametrize("batch", [2, 5])
def test_intra_modal_equals_the_sum_over_both_views(batch):
    scale, clean, masked = 10.0, unit(batch, 6, 2), unit(batch, 6, 3)

    def side(mine, other):
        total = 0.0
        for i in range(batch):
            positive = math.exp(scale * float(mine[i] @ other[i]))
            negatives = sum(
                math.exp(scale * float(mine[i] @ view[k]))
                for view in (mine, other)
                for k in range(batch)
                if k != i
            )
            total -= math.log(positive / (positive + negatives))
        return total / batch

    expected = (side(clean, masked) + side(masked, clean)) / 2
    assert intra_modal(clean, masked, scale).item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_features_and_autocast_do_not_blur_the_loss():
    x, y = unit(8, 16, 4), unit(8, 16, 5)
    exact = contrast(x, y, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrast(x, y, 100.0), exact)
        assert torch.equal(intra_modal(x, y, 100.0), intra_modal(x, y, 100.0).float())
    assert contrast(x.bfloat16(), y.bfloat16(), 100.0).dtype == torch.float32
