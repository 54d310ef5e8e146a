"""Spectrogram masking for the intra-modal loss (facts 2, D7; paper, Pre-training).

Masks are drawn for the whole clip, before it is split into segments, and are the same for all
channels. A masked cell holds 0, as in the released code: a power of 1 in dB and in natural
logarithms alike, far above a clip's mean (docs/deviations.md).
"""

from typing import NamedTuple

import numpy as np
import torch

from clip4vla.config.sections import Masking

FILL = 0.0


class Masks(NamedTuple):
    """Which rows and which columns of a spectrogram are masked."""

    steps: np.ndarray  # bool [T]
    bands: np.ndarray  # bool [n_mels]


def draw_masks(steps: int, n_mels: int, masking: Masking, rng: np.random.Generator) -> Masks:
    """Draw the masks of one clip of T = `steps` frames.

    released: floor(share * length) masks, each of a width drawn from 0 .. width - 1, anywhere it
    fits. paper: every index starts a mask of exactly `width` with the share as probability; masks
    are cut at the end.
    """
    bands = _draw(n_mels, masking.frequency, masking, rng)
    return Masks(_draw(steps, masking.time, masking, rng), bands)


def masked(batch: dict) -> torch.Tensor:
    """Return the masked copy of raw sound, [B, S, C, N, M], by the masks of its batch.

    A batch has them in place of `masked_audio` (`clip4vla.loading.collate`), so that half of it
    need not move to the device. Padding is not masked.
    """
    hidden = batch["masked_steps"][..., None] | batch["masked_bands"][:, None, None]
    hidden = hidden & batch["own_steps"][..., None]  # [B, S, N, M]
    return batch["audio"].masked_fill(hidden[:, :, None], FILL)


def _draw(length: int, share: float, masking: Masking, rng: np.random.Generator) -> np.ndarray:
    """Return bool [length]: the positions that the masks along one axis cover."""
    if masking.mode == "released":
        widths = np.minimum(rng.integers(0, masking.width, size=int(length * share)), length)
        starts = rng.integers(0, length - widths, endpoint=True)
        ends = starts + widths
    else:
        starts = np.flatnonzero(rng.random(length) < share)
        ends = np.minimum(starts + masking.width, length)
    edges = np.bincount(starts, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
    return edges.cumsum()[:length] > 0
