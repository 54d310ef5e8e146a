import numpy as np
import pytest
import torch

from clip4vla.cache import log_mel
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel


@pytest.fixture(scope="module")
def front_end():
    return LogMelFrontend(LogMel())


def chirp():
    t = np.arange(48000) / 16000
    return 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * np.sin(2 * np.pi * 3000 * t)


def test_golden_vector(front_end):
    out = front_end.compute(chirp()[None], 16000)
    assert out.shape == (1, 376, 224)
    places = ((0, 10), (100, 20), (200, 50), (300, 150))
    values = [float(out[0, step, band]) for step, band in places]
    assert values == pytest.approx([6.3365, -59.5558, -59.7025, -59.7025], abs=0.01)
    assert float(out.mean()) == pytest.approx(-54.3271, abs=0.005)
    assert float(out.std(correction=0)) == pytest.approx(15.0434, abs=0.005)
    assert float(out.max()) == pytest.approx(20.2975, abs=0.002)
    assert float(out.min()) == pytest.approx(-59.7025, abs=0.002)


def test_reference_stereo(front_end, vectors):
    out = front_end.compute(vectors["wave_stereo_16k"].T, 16000)
    assert out.shape == vectors["logmel_db_released"].shape
    np.testing.assert_allclose(out.numpy(), vectors["logmel_db_released"], rtol=0, atol=0.01)


def test_twelve_bands_are_empty(front_end):
    out = front_end.compute(chirp()[None], 16000)[0]
    empty = [0, 7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 79]
    assert bool((out[:, empty] == out.min()).all())


def test_channels_are_left_mean_right(front_end):
    left, right = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    out = front_end.compute(torch.stack((left, right)), 16000)
    for channel, wave in zip(out, (left, (left + right) / 2, right), strict=True):
        alone = front_end.compute(wave[None], 16000)[0]
        torch.testing.assert_close(channel, alone, rtol=0, atol=1e-3)


def test_each_channel_has_its_own_floor(front_end):
    wave = chirp()
    out = front_end.compute(np.stack((wave, 0.1 * wave)), 16000)
    assert (out.amax((1, 2)) - out.amin((1, 2))).tolist() == pytest.approx([80.0] * 3, abs=1e-3)


@pytest.mark.parametrize("samples", [0, 1, 127, 128, 255, 256, 511, 1000, 28672])
def test_length_and_silence(front_end, samples):
    out = front_end.compute(np.zeros((1, samples), np.float32), 16000)
    assert out.shape == (1, 1 + samples // 128, 224)
    assert bool((out == -100).all())


@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_change_nothing(front_end, channels, monkeypatch):
    wave = torch.randn(channels, 40000, generator=torch.Generator().manual_seed(1))
    wave[:, 20000:] *= 1e-3  # the floor comes from another block
    whole = front_end.compute(wave, 16000)
    monkeypatch.setattr(log_mel, "BLOCK_FRAMES", 50)
    torch.testing.assert_close(front_end.compute(wave, 16000), whole, rtol=0, atol=1e-3)


def test_half_precision_is_the_rounded_result(front_end):
    wave = torch.randn(2, 20000, generator=torch.Generator().manual_seed(2))
    out = front_end(wave, 16000)
    assert out.dtype == torch.float16
    assert torch.equal(out, front_end.compute(wave, 16000).half())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_bad_samples_are_refused(front_end, bad, rate):
    wave = np.zeros((1, 5000), np.float32)
    wave[0, -1] = bad
    with pytest.raises(ValueError, match="NaN, infinite"):
        front_end(wave, rate)


@pytest.mark.parametrize("kind", ["mel", "fbank"])
def test_the_mean_channel_only_equals_the_middle_of_three(kind):
    wave = torch.randn(2, 6000, generator=torch.Generator().manual_seed(4))
    three = LogMelFrontend(LogMel(kind=kind)).compute(wave, 22050)
    mean = LogMelFrontend(LogMel(kind=kind, channels="mean"))
    assert mean.compute(wave, 22050).shape == (1, *three.shape[1:])
    torch.testing.assert_close(mean.compute(wave, 22050), three[1:2], rtol=0, atol=1e-3)
    torch.testing.assert_close(mean.compute(wave[:1], 22050), three[:1], rtol=0, atol=1e-3)


def test_window_is_read():
    hamming = LogMelFrontend(LogMel(window="hamming")).compute(chirp()[None], 16000)
    hann = LogMelFrontend(LogMel()).compute(chirp()[None], 16000)
    assert float((hamming - hann).abs().max()) > 0.1
