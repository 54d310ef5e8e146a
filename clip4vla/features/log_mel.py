"""The audio front-end: waveform -> log-mel spectrogram in dB (facts 1.2, 1.3; paper, Audio).

It gives librosa's numbers (Slaney mel scale and area norm, centred frames with zero padding, power,
`power_to_db` with `top_db` per clip and channel) at a fraction of the work: the spectrum of the
mean channel is the mean of the two spectra, and mel bands are multiplied in groups that touch only
the bins they need. Work goes block by block over time, so hours of sound need little memory
beyond their own result.
"""

import math
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
import torchaudio

from clip4vla.config.data import LogMel

POWER_FLOOR = 1e-10  # librosa's `amin`: digital silence is -100 dB
BLOCK_FRAMES = 2048  # spectrogram frames worked on at a time
BAND_GROUP = 32  # mel bands multiplied together; the fastest of 8, 16, 28, 32, 56 on one thread
RESAMPLE_BLOCK = 1 << 21  # input samples resampled at a time
LARGEST_RATIO = 1000  # rates are reduced to a ratio of integers up to this (see `resample`)
LOWPASS_WIDTH, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # "kaiser best"


class LogMelFrontend:
    """Waveform -> log-mel in dB, channels left, mean, right (one channel for mono), [C, T, n_mels].

    T = 1 + floor(n / hop) for n samples at the config's rate; no samples at all give T = 1.
    """

    def __init__(self, config: LogMel):
        self.config = config
        make_window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[config.window]
        self._window = make_window(config.n_fft, periodic=True)  # [n_fft]
        self._groups = _band_groups(config)

    def __call__(self, waveform: np.ndarray | torch.Tensor, rate: int) -> torch.Tensor:
        """float16 [1 or 3, T, n_mels] in dB, as the cache holds it; otherwise like `compute`.

        Equal to `compute(...).half()`: rounding keeps order, so the floor may be applied after it.
        """
        return self._spectrogram(waveform, rate, torch.float16)

    def compute(self, waveform: np.ndarray | torch.Tensor, rate: int) -> torch.Tensor:
        """float32 [1 or 3, T, n_mels] in dB of a float waveform [1 or 2, n] at `rate` Hz.

        ValueError: another number of channels, or samples that are NaN, infinite or absurdly large.
        """
        return self._spectrogram(waveform, rate, torch.float32)

    @torch.no_grad()
    def _spectrogram(self, waveform, rate: int, dtype: torch.dtype) -> torch.Tensor:
        waveform = torch.as_tensor(waveform, dtype=torch.float32)  # [C, n]
        if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
            raise ValueError(f"a waveform is [1 or 2, n], not {list(waveform.shape)}")
        waveform = resample(waveform, rate, self.config.sample_rate)
        half = self.config.n_fft // 2
        surplus = waveform.shape[1] + 2 * half - self.config.n_fft
        steps = 1 + max(surplus, 0) // self.config.hop
        channels = 1 if waveform.shape[0] == 1 else 3
        out = torch.empty(channels, steps, self.config.n_mels, dtype=dtype)
        peak = torch.full((channels, 1, 1), -torch.inf)
        for start, spectra in self._spectra(waveform, steps):
            for channel, spectrum in enumerate(spectra):  # complex [t, bins]
                decibels = self._decibels(spectrum)  # [t, n_mels]
                peak[channel] = torch.maximum(peak[channel], decibels.amax())
                out[channel, start : start + len(decibels)] = decibels
        if not torch.isfinite(peak).all():
            raise ValueError("the waveform has samples that are NaN, infinite or absurdly large")
        return torch.maximum(out, (peak - self.config.top_db).to(dtype), out=out)

    def _spectra(
        self, waveform: torch.Tensor, steps: int
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Blocks (first frame, one complex [t, bins] per output channel) of the centred transform.

        The transform is linear: the mean channel needs no transform of its own.
        """
        n_fft, hop = self.config.n_fft, self.config.hop
        for start in range(0, steps, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, steps)
            left = start * hop - n_fft // 2
            right = left + (stop - start - 1) * hop + n_fft
            piece = waveform[:, max(left, 0) : max(right, 0)]
            lead = max(-left, 0)
            tail = right - left - lead - piece.shape[1]
            piece = torch.nn.functional.pad(piece, (lead, tail))
            spectra = [torch.fft.rfft(one.unfold(0, n_fft, hop) * self._window) for one in piece]
            if len(spectra) == 2:
                spectra.insert(1, (spectra[0] + spectra[1]).mul_(0.5))
            yield start, spectra

    def _decibels(self, spectrum: torch.Tensor) -> torch.Tensor:
        """dB of the mel bands, [t, n_mels], before the floor of `top_db`."""
        squares = torch.view_as_real(spectrum).flatten(1).square()  # [t, 2 * bins]
        mel = squares.new_empty(len(squares), self.config.n_mels)
        for bands, parts, weights in self._groups:
            mel[:, bands] = squares[:, parts] @ weights
        return mel.clamp_(min=POWER_FLOOR).log10_().mul_(10.0)


def _band_groups(config: LogMel) -> list[tuple[slice, slice, torch.Tensor]]:
    """Slaney filters as (bands, parts, weights [parts, bands]): only the parts each group needs.

    Parts are the real and imaginary ones of the bins, in turn: their squares add up to the power
    inside the product, which saves a pass over strided memory.
    """
    with warnings.catch_warnings():
        # With 224 bands on 257 bins 12 filters are empty (facts 1.2); the weights know them so.
        warnings.filterwarnings("ignore", message="At least one mel filterbank")
        filters = torchaudio.functional.melscale_fbanks(
            config.n_fft // 2 + 1,
            config.f_min,
            config.f_max,
            config.n_mels,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )  # [bins, n_mels]
    groups = []
    for first in range(0, config.n_mels, BAND_GROUP):
        bands = slice(first, min(first + BAND_GROUP, config.n_mels))
        used = filters[:, bands].any(dim=1).nonzero().flatten().tolist() or [0]
        weights = filters[used[0] : used[-1] + 1, bands].repeat_interleave(2, dim=0)
        groups.append((bands, slice(2 * used[0], 2 * used[-1] + 2), weights.contiguous()))
    return groups


def resample(waveform: torch.Tensor, rate: int, target: int) -> torch.Tensor:
    """Resample [C, n] from `rate` to `target` Hz, [C, ceil(n * target / rate)].

    Long input goes block by block, each with the neighbours its filter reaches. A rate that shares
    no large divisor with the target (11127 Hz) would need a filter bank of gigabytes; the nearest
    ratio of integers up to 1000 is used then: a drift below 0.1 ms in a minute.
    """
    if rate == target or waveform.shape[1] == 0:
        return waveform
    ratio = Fraction(rate, target).limit_denominator(LARGEST_RATIO)
    old, new = ratio.numerator, ratio.denominator
    reach = LOWPASS_WIDTH * old / (min(old, new) * ROLLOFF)  # input samples on either side
    overlap = old * (math.ceil(reach / old) + 1)
    block = old * max(RESAMPLE_BLOCK // old, 1)
    pieces = []
    for start in range(0, waveform.shape[1], block):
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
        keep = -(-min(block, waveform.shape[1] - start) * new // old)
        pieces.append(piece[:, skip : skip + keep])
    return torch.cat(pieces, dim=1)
