"""Resampling of any rate to the front-end's, in bounded memory."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import torch
import torchaudio

from clip4vla.cache.pieces import SampleBuffer, with_last

RATES = (1000, 1_000_000)  # Hz; filters of others would be useless or gigabytes
BLOCK = 1 << 21  # input samples resampled at a time
LARGEST_RATIO = 1000  # rates are reduced to a ratio of integers up to this (see `resample`)
LOWPASS_WIDTH, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # "kaiser best"


def resample(waveform: torch.Tensor, rate: float, target: int) -> torch.Tensor:
    """Resample [C, n] from `rate` to `target` Hz, [C, ceil(n * target / rate)].

    A rate that shares no large divisor with the target (11127 Hz) would need a filter bank of
    gigabytes; the nearest ratio of integers up to 1000 is used then: off by 0.05 % at most
    (15992 Hz), and by nothing at the usual rates. ValueError: a rate outside 1 kHz to 1 MHz.
    """
    return torch.cat(list(resampled([waveform], rate, target)), dim=1)


def resampled(pieces: Iterable[torch.Tensor], rate: float, target: int) -> Iterator[torch.Tensor]:
    """Resample a waveform that comes in one or more pieces [C, n] of any length; see `resample`.

    It is resampled in blocks of BLOCK samples, each with the neighbours that its filter reaches,
    so the numbers are those of the whole waveform, wherever the pieces end.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"a sample rate lies between {RATES[0]} and {RATES[1]} Hz, not at {rate}")
    if rate == target:
        yield from pieces
        return
    ratio = (Fraction(rate) / target).limit_denominator(LARGEST_RATIO)
    old, new = ratio.numerator, ratio.denominator
    reach = LOWPASS_WIDTH * old / (min(old, new) * ROLLOFF)  # input samples on either side
    overlap = old * (math.ceil(reach / old) + 1)
    block = old * max(BLOCK // old, 1)
    buffer = SampleBuffer()
    start = 0  # of the block: an input sample
    for last, piece in with_last(pieces):
        buffer.add(piece)
        while start + block + overlap <= buffer.end or (last and start < buffer.end):
            first = max(start - overlap, 0)
            done = _resample(buffer.cut(first, start + block + overlap), old, new)
            skip = (start - first) // old * new
            keep = -(-min(block, buffer.end - start) * new // old)
            yield done[:, skip : skip + keep]
            start += block
            buffer.forget(max(start - overlap, 0))
        if last and buffer.end == 0:
            yield piece


def _resample(waveform: torch.Tensor, old: int, new: int) -> torch.Tensor:
    return torchaudio.functional.resample(
        waveform,
        old,
        new,
        lowpass_filter_width=LOWPASS_WIDTH,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=BETA,
    )
