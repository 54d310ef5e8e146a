"""Properties of the front-end at any sample rate, channels, type and length."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel

RATES = [8000, 11025, 11127, 16000, 16001, 22050, 32000, 44100, 48000, 96000, 192000]
DTYPES = ["uint8", "int16", "int32", "float32", "float64"]
LENGTHS = [0, 1, 2, 127, 128, 255, 256, 511, 512, 513, 640, 28672, 28671]
KINDS = ["mel", "fbank"]
CASES = 60


def random_samples(rng, channels, length, dtype):
    """Noise of any loudness, [channels, length]."""
    loudness = 10 ** rng.uniform(-4, -0.5)
    noise = np.clip(loudness * rng.standard_normal((channels, length)), -1, 1)
    match dtype:
        case "uint8":
            return (127 * noise + 128).astype(dtype)
        case "int16" | "int32":
            return (noise * np.iinfo(dtype).max).astype(dtype)
    return noise.astype(dtype)


def frames_expected(config, samples):
    if config.kind == "mel":
        return 1 + samples // config.hop
    return 1 + max(samples - config.n_fft, 0) // config.hop


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_gives_a_finite_log_mel_of_the_right_shape(kind):
    rng = np.random.default_rng(0)
    for case in range(CASES):
        config = LogMel(kind=kind, channels=str(rng.choice(["left_mean_right", "mean"])))
        rate, dtype = int(rng.choice(RATES)), str(rng.choice(DTYPES))
        channels = 1 + case % 8
        length = int(rng.choice([*LENGTHS, rng.integers(0, 3 * rate)]))
        samples = random_samples(rng, channels, length, dtype)
        found = LogMelFrontend(config).compute(samples, rate)
        where = (case, rate, dtype, channels, length)
        assert len(found) == (1 if channels == 1 or config.channels == "mean" else 3), where
        resampled = math.ceil(length * 16000 / rate)
        slack = 0 if rate not in (11127, 16001) else 1  # rates whose ratio is approximated
        assert abs(found.shape[1] - frames_expected(config, resampled)) <= slack, where
        assert bool(found.isfinite().all()), where
        if kind == "mel":
            spread = found.amax((1, 2)) - found.amin((1, 2))
            assert bool((spread <= 80.001).all()) and float(found.min()) >= -100, where


@pytest.mark.parametrize("kind", KINDS)
def test_integer_samples_equal_their_float_version(kind):
    front_end = LogMelFrontend(LogMel(kind=kind))
    rng = np.random.default_rng(1)
    for case in range(12):
        rate, channels = RATES[case % len(RATES)], 1 + case % 8
        samples = random_samples(rng, channels, 5000, "int16")
        expected = front_end.compute(samples, rate)
        for same in (
            samples.astype(np.float32) / 32768,
            samples.astype(np.float64) / 32768,
            samples.astype(np.int32) * 65536,
            torch.from_numpy(samples),
        ):
            assert torch.equal(front_end.compute(same, rate), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_stereo_of_equal_channels_equals_mono(kind):
    front_end = LogMelFrontend(LogMel(kind=kind))
    rng = np.random.default_rng(2)
    for rate in RATES:
        mono = random_samples(rng, 1, int(rng.integers(1, rate)), "float32")
        expected = front_end.compute(mono, rate)
        stereo = front_end.compute(np.repeat(mono, 2, axis=0), rate)
        torch.testing.assert_close(stereo, expected.expand(3, -1, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_silence_is_the_floor(dtype, channels):
    silence = np.full((channels, 4410), 128 if dtype == "uint8" else 0, dtype)
    for kind, floor in (("mel", -100.0), ("fbank", math.log(torch.finfo(torch.float32).eps))):
        found = LogMelFrontend(LogMel(kind=kind)).compute(silence, 44100)
        torch.testing.assert_close(found, torch.full_like(found, floor))


def test_ten_times_the_amplitude_is_twenty_decibels():
    rng = np.random.default_rng(3)
    samples = 0.05 * rng.standard_normal((2, 8000))
    decibels = [LogMelFrontend(LogMel()).compute(scale * samples, 16000) for scale in (1, 10)]
    torch.testing.assert_close(decibels[1], decibels[0] + 20, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_history_change_nothing(kind):
    rng = np.random.default_rng(4)
    clips = [
        (random_samples(rng, 1 + case % 3, int(rng.integers(0, 20000)), "int16"), rate)
        for case, rate in enumerate(RATES)
    ]
    front_end = LogMelFrontend(LogMel(kind=kind))
    forth = [front_end(*clip) for clip in clips]
    back = [front_end(*clip) for clip in reversed(clips)][::-1]
    alone = [LogMelFrontend(LogMel(kind=kind))(*clip) for clip in clips]
    for first, second, third in zip(forth, back, alone, strict=True):
        assert torch.equal(first, second) and torch.equal(first, third)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_samples_are_refused_wherever_they_are(kind):
    """Kind fbank reads no frame of the last samples, but they are no sound all the same."""
    front_end = LogMelFrontend(LogMel(kind=kind))
    rng = np.random.default_rng(5)
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, -1, int(rng.integers(0, 1000))):
            samples = random_samples(rng, 2, 1000, "float32")
            samples[rng.integers(2), place] = bad
            with pytest.raises(ValueError, match="NaN, infinite"):
                front_end(samples, 16000)


MEMORY = """
import resource, sys
import numpy as np, torch
from clip4vla.config.data import LogMel
from clip4vla.cache.log_mel import LogMelFrontend

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

front_end = LogMelFrontend(LogMel(kind=sys.argv[1]))
wave = np.zeros((1, 8000 * int(sys.argv[2])), np.float32)
wave[:] = np.sin(np.arange(8000, dtype=np.float32)).repeat(int(sys.argv[2]))
front_end(wave[:, :80000], 8000)
before = peak()
found = front_end(wave, 8000)
held = found.numel() * 2 + 2 * wave.nbytes  # the result, and the waveform at 16 kHz
print((peak() - before - held) // 1_000_000)
assert len(found[0]) >= 124 * int(sys.argv[2]) and bool(found[:, ::1000].isfinite().all())
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [600, pytest.param(3600, marks=pytest.mark.slow)])
def test_long_sound_needs_little_memory_beyond_its_result(kind, seconds):
    command = [sys.executable, "-c", MEMORY, kind, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150  # MB; the transform of 10 min at once takes more than 500
