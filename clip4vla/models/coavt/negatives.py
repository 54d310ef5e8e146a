"""Hard negatives of matching: which other clip and other text each pair is confused with.

They are drawn by the contrast of the global batch (facts 2.3). A draw depends on the seed and on
the samples themselves, not on the order in which ranks hold them.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.common.seeds import generator
from clip4vla.models.coavt.losses import ContrastLogits

EXCLUDED = -10_000.0  # logit of a pair that is no negative
NEVER = -1.0  # below every chance
TINY = 1e-300


class Negatives(NamedTuple):
    """Indices into the global batch."""

    clip_of_text: Tensor  # int64 [N], a clip for each text
    text_of_clip: Tensor  # int64 [N], a text for each clip


def negative_weights(logits: Tensor, same: Tensor) -> Tensor:
    """Return the chances of the columns of each row of contrast logits [N, N]; rows sum to 1.

    same: bool [N, N], the pairs that are no negatives.
    """
    return logits.detach().float().masked_fill(same, EXCLUDED).softmax(dim=1)


def draw_negatives(logits: ContrastLogits, clips: Tensor, samples: Tensor, seed: int) -> Negatives:
    """Draw a clip for each text and a text for each clip, never of the same clip.

    clips, samples: int64 [N], a number of each pair's clip, and of its clip with its caption
    (`numbers_of`). The pairs are sorted by `samples` before drawing, and the generator is seeded
    with `seed` and `samples`. UserError unless there are two different clips.
    """
    same = clips[:, None] == clips
    if bool(same.all()):
        raise UserError(
            f"optimiser.batch_size: all {len(clips)} samples of a batch are of one clip, so that "
            "matching has no negatives. Fix: raise it"
        )
    if logits.clip_to_text.is_meta:  # shapes without values: any other clip
        other = (~same).int().argmax(dim=1)
        return Negatives(other, other)
    order = samples.cpu().argsort(stable=True)
    dice = generator("negatives", seed, *samples.cpu()[order].tolist())
    by_text = _drawn(negative_weights(logits.text_to_clip, same), same, order, dice)
    by_clip = _drawn(negative_weights(logits.clip_to_text, same), same, order, dice)
    return Negatives(by_text.to(clips.device), by_clip.to(clips.device))


def _drawn(weights: Tensor, same: Tensor, order: Tensor, dice: np.random.Generator) -> Tensor:
    """Return a column for each row by its weights, int64 [N] on the CPU.

    Of exponential times divided by the weights, the smallest is first with just these chances.
    """
    times = torch.from_numpy(dice.exponential(size=weights.shape)).clamp(min=TINY)
    canonical = (weights.double().cpu()[order][:, order] / times).masked_fill(
        same.cpu()[order][:, order], NEVER
    )
    drawn = torch.empty_like(order)
    drawn[order] = order[canonical.argmax(dim=1)]
    return drawn
