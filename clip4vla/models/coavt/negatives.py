"""Hard negatives of matching: which other clip and other text each pair is confused with.

They are drawn by the contrast of the global batch (facts 2.3). A draw depends on the seed and on
the samples themselves, not on the order in which ranks hold them, and is made on the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clip4vla.common.seeds import seed_of
from clip4vla.models.coavt.losses import ContrastLogits

EXCLUDED = -10_000.0  # logit of a pair that is no negative
NEVER = -1.0  # below every chance
BITS = 53  # of a float64


class Negatives(NamedTuple):
    """Indices into the global batch."""

    clip_of_text: Tensor  # int64 [N], a clip for each text
    text_of_clip: Tensor  # int64 [N], a text for each clip


def negative_weights(logits: Tensor, same: Tensor) -> Tensor:
    """Return the chances of the columns of each row of contrast logits [N, N]; rows sum to 1.

    same: bool [N, N], the pairs that are no negatives.
    """
    return logits.detach().float().masked_fill(same, EXCLUDED).softmax(dim=1)


def dice_of(samples: list[str], purpose: str, seed: int) -> Tensor:
    """Return two uniform numbers in [0, 1) for each sample, float64 [B, 2], by hashes."""
    rows = [[seed_of(purpose, seed, way, x) >> (63 - BITS) for way in (0, 1)] for x in samples]
    return torch.tensor(rows, dtype=torch.float64) / 2**BITS


def draw_negatives(
    logits: ContrastLogits, clips: Tensor, samples: Tensor, dice: Tensor
) -> Negatives:
    """Draw a clip for each text and a text for each clip, never of the same clip.

    clips, samples: int64 [N], a number of each pair's clip, of which there are two at least, and
    of its clip with its caption (`numbers_of`); the latter gives the order of the candidates.
    dice: float64 [N, 2], see `dice_of`, for the clip and for the text.
    """
    same = clips[:, None] == clips
    if logits.clip_to_text.is_meta:  # shapes without values: any other clip
        other = (~same).int().argmax(dim=1)
        return Negatives(other, other)
    order = samples.argsort(stable=True)
    return Negatives(
        _drawn(negative_weights(logits.text_to_clip, same), same, order, dice[:, 0]),
        _drawn(negative_weights(logits.clip_to_text, same), same, order, dice[:, 1]),
    )


def _drawn(weights: Tensor, same: Tensor, order: Tensor, dice: Tensor) -> Tensor:
    """Return a column for each row by its weights, int64 [N].

    It is the first, in this order, up to which the weights' sum exceeds the row's number.
    """
    weights, same = weights[:, order], same[:, order]
    sums = weights.double().cumsum(dim=1)
    wanted = dice[:, None] * sums[:, -1:]
    place = torch.searchsorted(sums, wanted, right=True).clamp(max=len(order) - 1)  # [N, 1]
    # Where no other clip has a chance in float32, or a sum was rounded.
    likeliest = weights.masked_fill(same, NEVER).argmax(dim=1, keepdim=True)
    return order[torch.where(same.gather(1, place), likeliest, place).squeeze(1)]
