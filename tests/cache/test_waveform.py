import wave

import numpy as np
import pytest
import torch

from clip4vla.cache.waveform import as_waveform
from clip4vla.media.decode import decode_audio


def test_mono_and_stereo_float_samples_are_unchanged():
    samples = np.linspace(-1, 1, 10, dtype=np.float32)
    assert torch.equal(as_waveform(samples), torch.from_numpy(samples)[None])
    pair = torch.stack((torch.from_numpy(samples), torch.zeros(10)))
    assert as_waveform(pair).data_ptr() == pair.data_ptr()


@pytest.mark.parametrize(
    ("dtype", "least", "silence", "most"),
    [
        ("uint8", 0, 128, 255),
        ("int16", -(2**15), 0, 2**15 - 1),
        (">i2", -(2**15), 0, 2**15 - 1),
        ("int32", -(2**31), 0, 2**31 - 1),
        ("float64", -1, 0, 1),
    ],
)
def test_full_scale_is_one(dtype, least, silence, most):
    samples = np.array([least, silence, most], dtype)
    before = samples.copy()
    found = as_waveform(samples)
    assert found.dtype == torch.float32
    assert found[0].tolist() == pytest.approx([-1, 0, 1], abs=0.008)
    assert found[0, :2].tolist() == [-1, 0]
    np.testing.assert_array_equal(samples, before)
    if not dtype.startswith(">"):
        assert torch.equal(as_waveform(torch.from_numpy(samples)), found)


def test_read_only_and_reversed_arrays():
    samples = np.arange(4, dtype=np.float32) / 4
    samples.flags.writeable = False
    assert as_waveform(samples)[0].tolist() == [0, 0.25, 0.5, 0.75]
    assert as_waveform(samples[::-1])[0].tolist() == [0.75, 0.5, 0.25, 0]
    assert as_waveform([0.25, -0.5])[0].tolist() == [0.25, -0.5]


@pytest.mark.parametrize("channels", range(1, 9))
def test_downmix_is_that_of_the_decoder(tmp_path, channels):
    """The samples of a WAV file, and the file itself as `media.decode` reads it."""
    rng = np.random.default_rng(channels)
    samples = rng.integers(-20000, 20000, (channels, 3000)).astype(np.int16)
    with wave.open(str(tmp_path / "x.wav"), "wb") as out:
        out.setparams((channels, 2, 16000, 0, "NONE", ""))
        out.writeframes(samples.T.astype("<i2").tobytes())
    decoded, _ = decode_audio(tmp_path / "x.wav")
    found = as_waveform(samples)
    assert found.shape == (1 if channels == 1 else 2, 3000)
    np.testing.assert_allclose(found.numpy(), decoded, rtol=0, atol=1e-4)


def test_five_one_by_hand():
    front_left, front_right, centre, effects, back_left, back_right = np.eye(6, dtype=np.float32)
    found = as_waveform(np.eye(6, dtype=np.float32))
    half = np.sqrt(0.5)
    left = front_left + half * centre + half * back_left + 0 * effects
    right = front_right + half * centre + half * back_right
    np.testing.assert_allclose(found.numpy(), np.stack((left, right)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 100), (9, 100), (48000, 2), (1, 2, 100), ()])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"a waveform is \[n\] or \[1 to 8, n\]"):
        as_waveform(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint16, np.int64, np.float16, bool, np.complex64, "U1"]
)
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="samples are uint8, int16, .* not "):
        as_waveform(np.zeros(4, dtype))


def test_a_tensor_of_another_type_is_refused():
    with pytest.raises(ValueError, match="not bfloat16: convert"):
        as_waveform(torch.zeros(4, dtype=torch.bfloat16))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, 20000.0, -101.0])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_invalid_samples_are_refused(bad, channels):
    samples = np.zeros((channels, 50))
    samples[-1, 17] = bad
    with pytest.raises(ValueError, match="NaN, infinite or beyond 100 times"):
        as_waveform(samples)
