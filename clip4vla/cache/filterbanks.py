"""The two kinds of log-mel: librosa's mel spectrogram and kaldi's filter banks (facts 1.2, D2).

Both cut a waveform into frames and apply a linear step, the power spectrum, triangular filters and
a logarithm. A class for each kind holds the differences.
"""

import math
import warnings

import torch
import torchaudio
from torchaudio.compliance import kaldi

from clip4vla.config.data import LogMel


class Mel:
    """librosa's mel: Slaney scale and area norm, centred frames on zero padding, dB (released)."""

    floor = 1e-10  # librosa's `amin`: digital silence is -100 dB
    unit = 10.0  # of log10: dB

    def __init__(self, config: LogMel):
        self.lead = config.n_fft // 2  # zeros before the first sample, and after the last
        self.n_fft = config.n_fft
        self.top_db = config.top_db
        self._window = WINDOWS[config.window](config.n_fft, periodic=True)  # [n_fft]

    def windowed(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the input of the transform for frames [t, n_fft]."""
        return frames * self._window

    def filters(self, config: LogMel) -> torch.Tensor:
        """Return the filters [bins, n_mels]."""
        with warnings.catch_warnings():
            # With 224 bands on 257 bins 12 filters are empty (facts 1.2), also for the weights.
            warnings.filterwarnings("ignore", message="At least one mel filterbank")
            return torchaudio.functional.melscale_fbanks(
                self.n_fft // 2 + 1,
                config.f_min,
                config.f_max,
                config.n_mels,
                config.sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )


class Fbank:
    """kaldi's `fbank`, as in torchaudio: HTK's mel scale, peak norm, natural logarithm.

    Frames lie wholly inside the clip. Samples are in -1..1, not int16's range as in kaldi's own
    programs: that would add 20.8 to every value above the floor. There is no dither: a clip gives
    the same values every time. With 224 bands on 257 bins 18 filters are empty, at the floor.
    """

    floor = torch.finfo(torch.float32).eps  # digital silence is -15.94
    unit = math.log(10.0)  # of log10: the natural logarithm
    lead = 0
    top_db: float | None = None  # no floor of a clip's own

    def __init__(self, config: LogMel):
        self.n_fft = 1 << (config.n_fft - 1).bit_length()  # the window, filled up with zeros
        self._window = WINDOWS[config.window](config.n_fft, periodic=False)
        self._preemphasis, self._remove_dc = config.preemphasis, config.remove_dc

    def windowed(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the input of the transform for frames [t, n_fft]."""
        if self._remove_dc:
            frames = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
        return (frames - self._preemphasis * before) * self._window

    def filters(self, config: LogMel) -> torch.Tensor:
        """Return the filters [bins, n_mels]; the last bin has no weight."""
        f_min, f_max, rate = config.f_min, config.f_max, float(config.sample_rate)
        # The last three arguments warp the frequencies for a speaker; a factor of 1 does nothing.
        banks, _ = kaldi.get_mel_banks(config.n_mels, self.n_fft, rate, f_min, f_max, 100, -500, 1)
        return torch.nn.functional.pad(banks, (0, 1)).T


WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window}
KINDS: dict[str, type[Mel | Fbank]] = {"mel": Mel, "fbank": Fbank}
