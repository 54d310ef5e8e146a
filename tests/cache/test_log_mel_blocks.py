"""A waveform in blocks gives the numbers of the whole, and is never in memory as a whole."""

import weakref

import numpy as np
import pytest
import torch

from clip4vla.cache import log_mel, resample
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of a fraction of a second, so that a short waveform has many."""
    monkeypatch.setattr(resample, "BLOCK", 9000)
    monkeypatch.setattr(log_mel, "BLOCK_FRAMES", 40)
    monkeypatch.setattr(log_mel, "PIECE", 3000)


def blocks_of(wave, sizes):
    start = 0
    for size in sizes:
        yield wave[:, start : start + size]
        start += size


@pytest.mark.parametrize("kind", ["mel", "fbank"])
@pytest.mark.parametrize("rate", [16000, 44100, 8000, 11127])
@pytest.mark.parametrize("samples", [1, 700, 40_001])
def test_blocks_of_any_size(kind, rate, samples):
    rng = np.random.default_rng(samples)
    wave = 0.1 * rng.standard_normal((2, samples)).astype(np.float32)
    sizes = rng.multinomial(samples, np.ones(60) / 60)
    front_end = LogMelFrontend(LogMel(kind=kind))
    found = front_end(blocks_of(wave, sizes), rate)
    assert torch.equal(found, front_end(wave, rate))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_are_released(rate):
    """Ten seconds in hundredths: at no time are more than a few of them held."""
    alive, most = [], 0

    class Block(np.ndarray):
        pass

    def blocks():
        nonlocal most
        for _ in range(1000):
            block = np.ones((2, rate // 100), np.float32).view(Block)
            alive.append(weakref.ref(block))
            most = max(most, sum(one() is not None for one in alive))
            yield block
            del block

    shape = LogMelFrontend(LogMel())(blocks(), rate).shape
    assert shape == (3, 1 + 160_000 // 128, 224) and most < 60


def test_a_bad_sample_in_a_late_block_is_refused():
    wave = np.zeros((1, 50_000), np.float32)
    wave[0, -1] = np.nan
    with pytest.raises(ValueError, match="NaN, infinite"):
        LogMelFrontend(LogMel())(blocks_of(wave, [1000] * 50), 16000)
