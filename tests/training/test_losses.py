"""Contrastive losses: the reference implementation's numbers, and the formulas spelled out."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from clip4vla.training.losses import contrast, intra_modal, nce

HERE = Path(__file__).parents[1]
REFERENCE = Path(os.environ.get("CLIP4VLA_REFERENCE", HERE / "parity" / "reference"))


@pytest.fixture(scope="module")
def vectors():
    return np.load(REFERENCE / "vectors.npz")


@pytest.mark.parametrize(
    ("key", "logits"), [("nce_text_audio", "t_a"), ("nce_vision_audio", "a_v")]
)
def test_nce_equals_the_reference(vectors, key, logits):
    value = nce(torch.from_numpy(vectors[f"pretrain_logits_{logits}"]), symmetric=True)
    assert value.item() == pytest.approx(float(vectors[key]), abs=1e-4)


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
