import pytest
import torch
import torchaudio

from clip4vla.cache.resample import resample


def tone(hertz, samples, rate):
    return torch.sin(2 * torch.pi * hertz * torch.arange(samples).double() / rate).float()[None]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
def test_resampling_keeps_a_tone(rate):
    out = resample(tone(1000, rate // 2, rate), rate, 16000)
    expected = tone(1000, 8000, 16000)[0]
    assert out.shape == (1, 8000)
    torch.testing.assert_close(out[0, 1000:-1000], expected[1000:-1000], rtol=0, atol=2e-4)


def test_resampling_removes_frequencies_above_half_the_rate():
    out = resample(tone(9000, 48000, 48000), 48000, 16000)
    assert float(out[0, 1000:-1000].abs().max()) < 1e-4


@pytest.mark.parametrize("rate", [8000, 32000, 44100, 48000, 11127])
def test_resampling_in_blocks_changes_nothing(rate, monkeypatch):
    wave = torch.randn(2, 30011, generator=torch.Generator().manual_seed(3))
    whole = resample(wave, rate, 16000)
    monkeypatch.setattr("clip4vla.cache.resample.BLOCK", 7000)
    torch.testing.assert_close(resample(wave, rate, 16000), whole, rtol=0, atol=1e-5)
    if rate != 11127:
        assert whole.shape == torchaudio.functional.resample(wave, rate, 16000).shape


@pytest.mark.parametrize("rate", [44101, 15992, 1000.5])
def test_odd_rates_keep_the_length_in_time(rate):
    assert resample(torch.zeros(1, 40000), rate, 16000).shape[1] == pytest.approx(
        40000 * 16000 / rate, rel=6e-4
    )


@pytest.mark.parametrize("rate", [0, -16000, 999, 2_000_000, float("nan")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="a sample rate lies between"):
        resample(torch.zeros(1, 100), rate, 16000)
