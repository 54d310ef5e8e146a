"""Augmentation of a training clip as in CAV-MAE's loader.

Another clip is mixed in, bands and steps of the log-mel are masked, noise is added, and it is
rolled along time. Each function draws from the generator that it gets: see `augmentation_rng`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clip4vla.common.seeds import generator
from clip4vla.loading.masking import FILL

BETA = 10.0  # of both parameters: shares lie around one half
NOISE = 0.1  # the largest noise, in standard deviations of the log-mel


class Mixture(NamedTuple):
    """The clip that is mixed in, as an index of the samples, and the share of the clip itself."""

    other: int
    share: float


def augmentation_rng(
    purpose: str, seed: int, epoch: int, clip_id: str, number: int = 0
) -> np.random.Generator:
    """Return the generator of one kind of augmentation of a clip in an epoch.

    Switching one kind off changes no other. number: how often the clip was drawn before in this
    epoch.
    """
    return generator(purpose, seed, epoch, clip_id, number)


def draw_mixture(samples: int, probability: float, rng: np.random.Generator) -> Mixture | None:
    """Draw which of the samples is mixed in, any of them alike, and the share; None for no mixing.

    Shares are of Beta(10, 10).
    """
    if rng.random() >= probability:
        return None
    return Mixture(other=int(rng.integers(samples)), share=float(rng.beta(BETA, BETA)))


def mix_waveforms(own: Tensor, other: Tensor, share: float) -> Tensor:
    """Mix waveforms [C, n] and [C', m] to [max(C, C'), n], all without their means.

    The other one is cut or filled up with zeros to n samples.
    """
    own, other = (_centred(waveform) for waveform in (own, other))
    fitted = other.new_zeros(len(other), own.shape[1])
    length = min(own.shape[1], other.shape[1])
    fitted[:, :length] = other[:, :length]
    return _centred(share * own + (1.0 - share) * fitted)


def mask_log_mel(log_mel: Tensor, bands: int, steps: int, rng: np.random.Generator) -> Tensor:
    """Return a log-mel [C, T, F] with one mask of bands and one of steps, the same in all channels.

    Widths are drawn from 0 to less than `bands` and `steps`, and cut to the log-mel; places are
    drawn where the mask fits (torchaudio's `FrequencyMasking` and `TimeMasking`; SpecAugment).
    """
    masked = log_mel.clone()
    for axis, most in ((2, bands), (1, steps)):
        length = log_mel.shape[axis]
        width = min(rng.random() * most, length)
        start = rng.random() * (length - width)
        masked.narrow(axis, int(start), int(width)).fill_(FILL)
    return masked


def add_noise(log_mel: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    """Return a log-mel [C, T, F] with uniform noise, of a strength that is drawn too.

    deviation: the standard deviation by which the log-mel will be divided: noise is added to what
    the model reads, in CAV-MAE after standardisation.
    """
    most = rng.random() * NOISE * deviation
    noise = rng.random(tuple(log_mel.shape), dtype=np.float32)
    return log_mel + most * torch.from_numpy(noise)


def roll_steps(log_mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a log-mel [C, T, F] rolled along time by any number of steps alike."""
    return log_mel.roll(int(rng.integers(log_mel.shape[1])), dims=1)


def _centred(waveform: Tensor) -> Tensor:
    """Return a waveform [C, n] less the mean of each channel."""
    return waveform - waveform.mean(dim=1, keepdim=True) if waveform.numel() else waveform
