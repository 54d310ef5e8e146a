"""Contrastive losses on pooled, normalised features (paper eqs 1-5; facts 5.2-5.4).

`scale` is 1 / temperature: a constant (D9), or CLIP's learned one as a tensor. `same` marks the
positive pairs: bool [B, B], symmetric; None: the diagonal only. Losses are computed in float32,
even under autocast: in bfloat16, with 8 bits, logits of +-100 would have errors of 0.25.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from clip4vla.common.device import full_precision

ROWS = 4096  # whose logits are in memory at once, where a batch has more
SELF = -1e9  # logit of a clip with itself in the intra-modal loss: its softmax term is zero


def nce(logits: Tensor, symmetric: bool = True, same: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of positive pairs in `logits` [B, B].

    `symmetric`: mean of rows and columns (pre-training, facts 5.3); otherwise rows only, which is
    text -> video when rows are texts (released fine-tuning, facts 5.4 and D10). With `same` the
    mean is over all of its pairs, each against its whole row (refine_nce, facts 5.2).
    """
    logits = logits.float()  # [B, B]
    pairs = None if same is None else same.nonzero(as_tuple=True)
    rows = _rows(logits, pairs)
    return (rows + _rows(logits.T, pairs)) / 2 if symmetric else rows


def _rows(logits: Tensor, pairs: tuple[Tensor, ...] | None) -> Tensor:
    if pairs is None:
        return cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    return -logits.log_softmax(dim=1)[pairs].mean()


def contrast(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    symmetric: bool = True,
    same: Tensor | None = None,
) -> Tensor:
    """Return `nce` of normalised features x [B, D] (rows) and y [B, D]."""
    with full_precision(x):
        x, y = x.float(), y.float()
        if len(x) <= ROWS:
            return nce(scale * x @ y.T, symmetric, same)
        positives = len(x) if same is None else same.sum()
        rows = _in_blocks(_contrasted, x, y, scale, same) / positives
        if not symmetric:
            return rows
        return (rows + _in_blocks(_contrasted, y, x, scale, same) / positives) / 2


def intra_modal(clean: Tensor, masked: Tensor, scale: float | Tensor) -> Tensor:
    """Return the contrast of clean and masked audio of a clip (paper eqs 3-4; facts 5.3, AA).

    clean, masked: [B, D], normalised. The positive of a clip is its other view; negatives are both
    views of all other clips. Mean of both directions.
    """
    with full_precision(clean):
        clean, masked = clean.float(), masked.float()
        from_clean = _in_blocks(_with_own_view, clean, masked, scale)
        from_masked = _in_blocks(_with_own_view, masked, clean, scale)
        return (from_clean + from_masked) / (2 * len(clean))


def _in_blocks(
    loss: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    same: Tensor | None = None,
) -> Tensor:
    """Return the sum of a loss over blocks of rows of x; see `_contrasted`.

    Of several blocks the logits are computed again in the backward pass, so that those of one are
    in memory: of 32,768 clips all would take 4.3 GB, and their gradients as much again.
    """
    if len(x) <= ROWS:
        return loss(x, y, scale, same, 0, len(x))
    total = x.new_zeros(())
    for first in range(0, len(x), ROWS):
        last = min(first + ROWS, len(x))
        total = total + checkpoint(loss, x, y, scale, same, first, last, use_reentrant=False)
    return total


def _contrasted(
    x: Tensor, y: Tensor, scale: float | Tensor, same: Tensor | None, first: int, last: int
) -> Tensor:
    """Return the summed cross-entropy of rows `first` to `last` of x among all rows of y."""
    logits = scale * x[first:last] @ y.T
    if same is None:
        return cross_entropy(logits, torch.arange(first, last, device=x.device), reduction="sum")
    return -logits.log_softmax(dim=1)[same[first:last]].sum()


def _with_own_view(
    x: Tensor, other: Tensor, scale: float | Tensor, _: Tensor | None, first: int, last: int
) -> Tensor:
    """Return the same among the rows of the other view and those of x but itself."""
    target = torch.arange(first, last, device=x.device)
    own = scale * x[first:last] @ x.T
    own = own.index_put((target - first, target), own.new_tensor(SELF))
    logits = torch.cat([scale * x[first:last] @ other.T, own], dim=1)
    return cross_entropy(logits, target, reduction="sum")
