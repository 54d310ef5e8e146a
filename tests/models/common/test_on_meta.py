"""Modules on the meta device are built without initial values."""

import torch
from torch import nn

from clip4vla.models.common.on_meta import on_meta


def test_modules_have_shapes_and_no_values():
    with on_meta():
        layer = nn.TransformerEncoderLayer(8, 2)
        made = torch.randn(3)
    assert all(x.is_meta for x in [*layer.parameters(), made])


def test_nothing_is_drawn():
    tensor = torch.ones(2, 3)
    with on_meta():
        for draw in (nn.init.normal_, nn.init.xavier_uniform_, nn.init.kaiming_uniform_):
            assert draw(tensor) is tensor
        assert tensor.normal_() is tensor and tensor.uniform_(0, 2) is tensor
    assert (tensor == 1).all()
