"""The audio front-end: waveform -> log-mel spectrogram (facts 1.2, 1.3; paper, Audio).

It gives librosa's or kaldi's numbers (`filterbanks`) with a fraction of the work: the spectrum of
the mean channel is the mean of the two spectra, and mel bands are multiplied in groups that read
only the bins they need. It works in blocks over time, so hours of sound need little memory beyond
the result.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from clip4vla.cache.filterbanks import KINDS
from clip4vla.cache.pieces import SampleBuffer, with_last
from clip4vla.cache.resample import resampled
from clip4vla.cache.waveform import FULL_SCALE, as_waveform
from clip4vla.config.data import LogMel

Samples = np.ndarray | torch.Tensor | Iterator[np.ndarray]
BLOCK_FRAMES = 2048  # spectrogram frames worked on at a time
PIECE = 1 << 20  # samples of a waveform in blocks that are processed together
BAND_GROUP = 32  # mel bands multiplied together; the fastest of 8, 16, 28, 32, 56 on one thread


class LogMelFrontend:
    """A converter of waveforms to log-mels [C, T, n_mels].

    Channels are left, mean, right; or one, for mono or the mean.

    For n samples at the config's rate T = 1 + floor(n / hop) with kind mel, in dB, and
    1 + floor(max(n - n_fft, 0) / hop) with kind fbank, natural logarithms: a clip shorter than a
    window is filled up with zeros. So T is at least 1, also for no samples at all.
    """

    def __init__(self, config: LogMel):
        self.config = config
        self._kind = KINDS[config.kind](config)
        self._groups = _band_groups(self._kind.filters(config))

    def __call__(self, samples: Samples, rate: float) -> torch.Tensor:
        """Return float16 [1 or 3, T, n_mels], as in the cache; otherwise like `compute`.

        Equal to `compute(...).half()`: rounding keeps order, so the floor may be applied after it.
        """
        return self._spectrogram(samples, rate, torch.float16)

    def compute(self, samples: Samples, rate: float) -> torch.Tensor:
        """Return float32 [1 or 3, T, n_mels] of samples [n] or [1 to 8, n] at `rate` Hz.

        samples: an array, or an iterator over the blocks [1 to 8, n] of one waveform, which are
        never all in memory; both give the same numbers. Raises ValueError as `as_waveform` and
        `resampled` do.
        """
        return self._spectrogram(samples, rate, torch.float32)

    def waveform(self, samples: Samples, rate: float) -> torch.Tensor:
        """Return int16 [1 or 2, n] at the config's rate: what log-mels are computed from, rounded.

        Samples beyond full scale are clipped, as in a WAV file. Raises ValueError as `compute`.
        """
        blocks = samples if isinstance(samples, Iterator) else iter([samples])
        pieces = resampled(self._waveform(blocks), rate, self.config.sample_rate)
        low, high = -FULL_SCALE["int16"], FULL_SCALE["int16"] - 1
        return torch.cat(
            [(piece * -low).round().clamp(low, high).to(torch.int16) for piece in pieces], dim=1
        )

    @torch.no_grad()
    def _spectrogram(self, samples: Samples, rate: float, dtype: torch.dtype) -> torch.Tensor:
        blocks = samples if isinstance(samples, Iterator) else iter([samples])
        waveform = resampled(self._waveform(blocks), rate, self.config.sample_rate)
        blocks_out: list[torch.Tensor] = []
        peak: torch.Tensor | None = None
        for spectra in self._spectra(waveform):
            out = torch.empty(len(spectra), len(spectra[0]), self.config.n_mels, dtype=dtype)
            if peak is None:
                peak = torch.full((len(spectra), 1, 1), -torch.inf)
            for channel, spectrum in enumerate(spectra):  # complex [t, bins]
                values = self._log_mel(spectrum)  # [t, n_mels]
                peak[channel] = torch.maximum(peak[channel], values.amax())
                out[channel] = values
            blocks_out.append(out)
        out = blocks_out[0] if len(blocks_out) == 1 else torch.cat(blocks_out, dim=1)
        if self._kind.top_db is None or peak is None:
            return out
        return torch.maximum(out, (peak - self._kind.top_db).to(dtype), out=out)

    def _waveform(self, blocks: Iterator[np.ndarray | torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the blocks as float32 [1 or 2, n], in pieces of PIECE samples or more."""
        for piece in _joined(blocks):
            waveform = as_waveform(piece)
            if self.config.channels == "mean":
                waveform = waveform.mean(dim=0, keepdim=True)
            yield waveform

    def _spectra(self, waveform: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """Yield blocks of the transform, each with one complex [t, bins] per output channel.

        The transform is linear: the mean channel needs no transform of its own.
        """
        n_fft, hop, kind = self.config.n_fft, self.config.hop, self._kind
        buffer, start = SampleBuffer(), 0
        for last, piece in with_last(waveform):
            buffer.add(piece)
            steps = 1 + max(buffer.end + 2 * kind.lead - n_fft, 0) // hop  # if this is all
            while start < steps:
                stop = min(start + BLOCK_FRAMES, steps)
                left = start * hop - kind.lead
                right = left + (stop - start - 1) * hop + n_fft
                if not last and (stop - start < BLOCK_FRAMES or right > buffer.end):
                    break
                piece = buffer.cut(max(left, 0), max(right, 0))
                lead = max(-left, 0)
                tail = right - left - lead - piece.shape[1]
                piece = torch.nn.functional.pad(piece, (lead, tail))
                frames = [kind.windowed(one.unfold(0, n_fft, hop)) for one in piece]  # [t, n_fft]
                spectra = [torch.fft.rfft(one, n=kind.n_fft) for one in frames]
                if len(spectra) == 2:
                    spectra.insert(1, (spectra[0] + spectra[1]).mul_(0.5))
                yield spectra
                start = stop
                if start < steps or not last:
                    buffer.forget(max(start * hop - kind.lead, 0))

    def _log_mel(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Return the mel bands [t, n_mels] before the floor of `top_db`."""
        squares = torch.view_as_real(spectrum).flatten(1).square()  # [t, 2 * bins]
        mel = squares.new_empty(len(squares), self.config.n_mels)
        for bands, parts, weights in self._groups:
            mel[:, bands] = squares[:, parts] @ weights
        return mel.clamp_(min=self._kind.floor).log10_().mul_(self._kind.unit)


def _joined(blocks: Iterator[np.ndarray | torch.Tensor]) -> Iterator[np.ndarray | torch.Tensor]:
    """Join blocks until they have PIECE samples, because decoders give a thousand at a time."""
    some, length = [], 0
    for block in blocks:
        some.append(block)
        length += np.shape(block)[-1] if np.ndim(block) else 0
        if length >= PIECE:
            yield np.concatenate(some, axis=1) if len(some) > 1 else some[0]
            some, length = [], 0
    if some:
        yield np.concatenate(some, axis=1) if len(some) > 1 else some[0]


def _band_groups(filters: torch.Tensor) -> list[tuple[slice, slice, torch.Tensor]]:
    """Split filters [bins, n_mels] into (bands, parts, weights [parts, bands]) of few parts each.

    Parts are the real and imaginary parts of the bins, in turn: their squares add up to the power
    inside the product, which saves a pass over strided memory.
    """
    groups = []
    for first in range(0, filters.shape[1], BAND_GROUP):
        bands = slice(first, min(first + BAND_GROUP, filters.shape[1]))
        used = filters[:, bands].any(dim=1).nonzero().flatten().tolist() or [0]
        weights = filters[used[0] : used[-1] + 1, bands].repeat_interleave(2, dim=0)
        groups.append((bands, slice(2 * used[0], 2 * used[-1] + 2), weights.contiguous()))
    return groups
