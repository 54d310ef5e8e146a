"""Self-attention of CLIP's blocks: that of torch, in fewer passes over memory."""

import copy

import pytest
import torch
from copies import copies_of
from open_clip.transformer import LayerNorm, Transformer

from clip4vla.models.common.attention import without_copies

WIDTH, HEADS, CLIPS, LENGTH = 32, 4, 3, 7


@pytest.fixture(scope="module")
def both():
    """The same two blocks with torch's attention and with ours."""
    torch.manual_seed(0)
    theirs = Transformer(WIDTH, 2, HEADS, norm_layer=LayerNorm).double()
    ours = copy.deepcopy(theirs)
    without_copies(ours)
    return theirs, ours


def masks():
    causal = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1)
    of_clips = torch.zeros(CLIPS, LENGTH, LENGTH, dtype=torch.float64)
    of_clips[0, :, 3:] = of_clips[2, :, 1:] = float("-inf")
    return {"none": (None, None), "causal": (causal, causal)} | {
        "of each clip": (of_clips.repeat_interleave(HEADS, 0), of_clips[:, None])
    }


def trained(transformer, x, mask):
    """Output, and gradients of the input and of every weight."""
    transformer.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = transformer(x, attn_mask=mask)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in transformer.parameters())]


@pytest.mark.parametrize("name", masks())
def test_it_is_torchs_attention(both, name):
    x = torch.randn(CLIPS, LENGTH, WIDTH, dtype=torch.float64)
    found = [trained(one, x, mask) for one, mask in zip(both, masks()[name], strict=True)]
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_nothing_is_copied_in_the_forward_pass(both):
    x = torch.randn(CLIPS, LENGTH, WIDTH, dtype=torch.float64)
    theirs, ours = (
        [made for made in copies_of(lambda one=one: one(x)) if made.numel() >= x.numel()]
        for one in both
    )
    assert theirs and not ours
