"""Modules that a file will fill are built without drawing values."""

import subprocess
import sys

import torch
from torch import nn

from clip4vla.models.common.uninitialised import uninitialised


def test_modules_have_shapes_and_a_place():
    with uninitialised():
        layer = nn.TransformerEncoderLayer(8, 2)
        made = torch.randn(3)
    assert {x.device.type for x in [*layer.parameters(), made]} == {"cpu"}
    assert layer.linear1.weight.shape == (2048, 8) and made.shape == (3,)


def test_nothing_is_drawn():
    tensor, before = torch.ones(2, 3), torch.get_rng_state()
    with uninitialised():
        for draw in (nn.init.normal_, nn.init.xavier_uniform_, nn.init.kaiming_uniform_):
            assert draw(tensor) is tensor
        assert tensor.normal_() is tensor and tensor.uniform_(0, 2) is tensor
        torch.randn(3)
    assert (tensor == 1).all() and torch.equal(torch.get_rng_state(), before)


def test_torchs_compiler_is_not_imported():
    code = (
        "import sys; from clip4vla.models.clip4vla.build import empty_model\n"
        "from clip4vla.models.clip4vla.settings import Model\n"
        "from clip4vla.config.sections import Inputs\n"
        "model = empty_model(Model(architecture='tiny'), None, None, Inputs())\n"
        "mask = model.text.attn_mask\n"
        "assert (mask.triu(1).isinf() == mask.isinf()).all() and mask.isinf().any()\n"
        "assert 'torch._dynamo' not in sys.modules, 'a second of CPU in every command'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
