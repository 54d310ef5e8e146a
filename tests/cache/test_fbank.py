"""Kind fbank against torchaudio's `kaldi.fbank` called directly."""

import math

import pytest
import torch
from pydantic import ValidationError
from torchaudio.compliance import kaldi

from clip4vla.cache import log_mel
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel

FLOOR = math.log(torch.finfo(torch.float32).eps)


def torchaudios(wave, config):
    """[T, n_mels] of a waveform [1, n] at the config's rate."""
    return kaldi.fbank(
        wave,
        num_mel_bins=config.n_mels,
        sample_frequency=float(config.sample_rate),
        frame_length=1000 * (config.n_fft + 0.5) / config.sample_rate,  # it rounds down to n_fft
        frame_shift=1000 * (config.hop + 0.5) / config.sample_rate,
        window_type={"hann": "hanning"}.get(config.window, config.window),
        low_freq=config.f_min,
        high_freq=config.f_max,
        preemphasis_coefficient=config.preemphasis,
        remove_dc_offset=config.remove_dc,
    )


def sound(samples, channels=1, seed=0):
    """Noise with an offset, a quiet stretch and one of silence."""
    wave = 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))
    wave[:, samples // 3 : samples // 2] *= 1e-4
    wave += 0.01
    wave[:, samples // 2 : samples * 2 // 3] = 0
    return wave


@pytest.mark.parametrize(
    "options",
    [
        {"window": "hamming"},
        {},
        {"preemphasis": 0.0},
        {"remove_dc": False},
        {"n_fft": 400, "hop": 160},
        {"f_min": 20.0, "f_max": 7600.0},
        {"sample_rate": 22050, "n_fft": 706, "hop": 176, "f_max": 11025.0},
    ],
)
def test_equals_torchaudio(options, monkeypatch):
    config = LogMel(kind="fbank", **options)
    wave = sound(30000)
    expected = torchaudios(wave, config)
    found = LogMelFrontend(config).compute(wave, config.sample_rate)
    assert found.shape == (1, 1 + (30000 - config.n_fft) // config.hop, 224)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(log_mel, "BLOCK_FRAMES", 17)
    blocks = LogMelFrontend(config).compute(wave, config.sample_rate)
    torch.testing.assert_close(blocks, found, rtol=0, atol=1e-4)


def test_stereo_is_left_mean_right():
    config = LogMel(kind="fbank")
    left, right = wave = sound(9000, channels=2)
    found = LogMelFrontend(config).compute(wave, 16000)
    for channel, one in zip(found, (left, (left + right) / 2, right), strict=True):
        torch.testing.assert_close(channel, torchaudios(one[None], config), rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 639, 640, 48000])
def test_length_and_silence(samples):
    found = LogMelFrontend(LogMel(kind="fbank")).compute(torch.zeros(1, samples), 16000)
    assert found.shape == (1, 1 + max(samples - 512, 0) // 128, 224)
    torch.testing.assert_close(found, torch.full_like(found, FLOOR))


@pytest.mark.parametrize("samples", [1, 100, 511])
def test_a_clip_shorter_than_a_window_is_filled_up_with_zeros(samples):
    config = LogMel(kind="fbank")
    wave = sound(3000)[:, :samples]
    filled = torch.nn.functional.pad(wave, (0, 512 - samples))
    found = LogMelFrontend(config).compute(wave, 16000)[0]
    torch.testing.assert_close(found, torchaudios(filled, config), rtol=0, atol=1e-4)


def test_eighteen_bands_are_empty():
    found = LogMelFrontend(LogMel(kind="fbank")).compute(sound(5000), 16000)[0]
    empty = (found == found.min()).all(dim=0).nonzero().flatten().tolist()
    assert empty == [0, 1, 4, 5, 8, 9, 12, 15, 18, 19, 22, 25, 28, 33, 36, 41, 46, 57]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fbank", "top_db": 60.0}, "top_db only has an effect with kind: mel"),
        ({"preemphasis": 0.5}, "preemphasis only has an effect with kind: fbank"),
        ({"remove_dc": False}, "remove_dc only has an effect with kind: fbank"),
        ({"f_min": 8000.0}, "f_min 8000 is not below f_max 8000"),
    ],
)
def test_unused_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        LogMel(**options)
