"""Contrastive losses on pooled, normalised features (paper eqs 1-5; facts 5.2-5.4).

`scale` is 1 / temperature: a constant (D9), or CLIP's learned one as a tensor. `same` marks the
positive pairs: bool [B, B], symmetric; None: the diagonal only. Losses are computed in float32,
even under autocast: in bfloat16, with 8 bits, logits of +-100 would have errors of 0.25.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.common.device import full_precision

SELF = -1e9  # logit of a clip with itself in the intra-modal loss: its softmax term is zero


def nce(logits: Tensor, symmetric: bool = True, same: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of positive pairs in `logits` [B, B].

    `symmetric`: mean of rows and columns (pre-training, facts 5.3); otherwise rows only, which is
    text -> video when rows are texts (released fine-tuning, facts 5.4 and D10). With `same` the
    mean is over all of its pairs, each against its whole row (refine_nce, facts 5.2).
    """
    logits = logits.float()  # [B, B]
    rows = _rows(logits, same)
    return (rows + _rows(logits.T, same)) / 2 if symmetric else rows


def _rows(logits: Tensor, same: Tensor | None) -> Tensor:
    if same is None:
        return cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    return -logits.log_softmax(dim=1)[same].mean()


def contrast(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    symmetric: bool = True,
    same: Tensor | None = None,
) -> Tensor:
    """Return `nce` of normalised features x [B, D] (rows) and y [B, D]."""
    with full_precision(x):
        return nce(scale * x.float() @ y.float().T, symmetric, same)


def intra_modal(clean: Tensor, masked: Tensor, scale: float | Tensor) -> Tensor:
    """Return the contrast of clean and masked audio of a clip (paper eqs 3-4; facts 5.3, AA).

    clean, masked: [B, D], normalised. The positive of a clip is its other view; negatives are both
    views of all other clips. Mean of both directions.
    """
    with full_precision(clean):
        clean, masked = clean.float(), masked.float()  # [B, D]
        itself = SELF * torch.eye(len(clean), device=clean.device)
        across = scale * clean @ masked.T  # [B, B]
        target = torch.arange(len(clean), device=clean.device)
        from_clean = cross_entropy(torch.cat([across, scale * clean @ clean.T + itself], 1), target)
        from_masked = cross_entropy(
            torch.cat([across.T, scale * masked @ masked.T + itself], 1), target
        )
        return (from_clean + from_masked) / 2
