"""Resampling of any rate to the front-end's, in bounded memory."""

import math
from fractions import Fraction

import torch
import torchaudio

RATES = (1000, 1_000_000)  # Hz; filters of others would be useless or gigabytes
BLOCK = 1 << 21  # input samples resampled at a time
LARGEST_RATIO = 1000  # rates are reduced to a ratio of integers up to this (see `resample`)
LOWPASS_WIDTH, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # "kaiser best"


def resample(waveform: torch.Tensor, rate: float, target: int) -> torch.Tensor:
    """Resample [C, n] from `rate` to `target` Hz, [C, ceil(n * target / rate)].

    Long input goes block by block, each with the neighbours its filter reaches. A rate that shares
    no large divisor with the target (11127 Hz) would need a filter bank of gigabytes; the nearest
    ratio of integers up to 1000 is used then: off by 0.05 % at most (15992 Hz), and by nothing at
    the usual rates. ValueError: a rate outside 1 kHz to 1 MHz.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sample rate lies between {RATES[0]} and {RATES[1]} Hz, not at {rate}")
    if rate == target or waveform.shape[1] == 0:
        return waveform
    ratio = (Fraction(rate) / target).limit_denominator(LARGEST_RATIO)
    old, new = ratio.numerator, ratio.denominator
    reach = LOWPASS_WIDTH * old / (min(old, new) * ROLLOFF)  # input samples on either side
    overlap = old * (math.ceil(reach / old) + 1)
    block = old * max(BLOCK // old, 1)
    channels, samples = waveform.shape
    out = waveform.new_empty(channels, -(-samples * new // old))
    done = 0
    for start in range(0, samples, block):
        first = max(start - overlap, 0)
        piece = torchaudio.functional.resample(
            waveform[:, first : start + block + overlap],
            old,
            new,
            lowpass_filter_width=LOWPASS_WIDTH,
            rolloff=ROLLOFF,
            resampling_method="sinc_interp_kaiser",
            beta=BETA,
        )
        skip = (start - first) // old * new
        keep = -(-min(block, samples - start) * new // old)
        out[:, done : done + keep] = piece[:, skip : skip + keep]
        done += keep
    return out
