import io

import numpy as np
import pytest
import torch
from PIL import Image

from clip4vla.cache.frames import encode, resize, sample_positions, to_pixels
from clip4vla.config.data import Frames
from clip4vla.loading.tokenizer import tokenize
from clip4vla.loading.tokens import END, PAD, START


def gradient(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows * 255 // height, columns * 255 // width, rows * 0 + 60), -1).astype(
        np.uint8
    )


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(240, 320, (298, 224)), (90, 60, (224, 336)), (224, 224, (224,) * 2)],
)
def test_short_side_in_the_cache(height, width, size):
    jpeg = encode(gradient(height, width), Frames())
    assert Image.open(io.BytesIO(jpeg)).size == size
    assert jpeg == encode(gradient(height, width), Frames())
    assert to_pixels(jpeg).shape == (3, 224, 224)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (224, 224), (401, 77)])
def test_the_reader_gives_the_pixels_of_pillow(height, width):
    rng = np.random.default_rng(height)
    frame = rng.integers(0, 255, (height, width, 3), np.uint8)
    for config in (Frames(), Frames(short_side=300)):
        jpeg = encode(frame, config)
        image = resize(Image.open(io.BytesIO(jpeg)), 224)
        left, top = (round((side - 224) / 2) for side in image.size)
        expected = np.array(image.crop((left, top, left + 224, top + 224)))
        np.testing.assert_array_equal(to_pixels(jpeg).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("data", [b"", b"no picture", "cut"])
def test_corrupt_jpegs_are_refused(data):
    jpeg = encode(gradient(240, 320), Frames())
    with pytest.raises(OSError, match="JPEG"):
        to_pixels(jpeg[: len(jpeg) // 2] if data == "cut" else data)


def test_colours_stay_in_their_order():
    picture = np.zeros((224, 300, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    out = to_pixels(encode(picture, Frames(jpeg_quality=100))).float()
    np.testing.assert_allclose(out.mean((1, 2)), [200, 100, 50], atol=5)


def test_centre_is_kept():
    picture = np.zeros((224, 424, 3), np.uint8)
    picture[:, 100:324] = 255
    out = to_pixels(encode(picture, Frames(jpeg_quality=100)))
    assert out.dtype is torch.uint8
    assert int(out[:, :, 8:-8].min()) > 245


def test_frame_too_narrow_for_jpeg():
    with pytest.raises(ValueError, match="1 x 400"):
        encode(np.zeros((400, 1, 3), np.uint8), Frames())


@pytest.mark.parametrize(
    ("count", "most", "positions"),
    [
        (3, 12, [0, 1, 2]),
        (12, 12, list(range(12))),
        (30, 12, [0, 2, 5, 7, 10, 13, 15, 18, 21, 23, 26, 29]),
        (10, 1, [0]),
        (0, 4, []),
    ],
)
def test_uniform_sampling(count, most, positions):
    assert sample_positions(count, most) == positions


@pytest.mark.parametrize(
    ("count", "most", "positions"),
    [
        (10, 1, [5]),
        (9, 1, [4]),
        (10, 2, [2, 7]),
        (10, 3, [1, 5, 8]),
        (2, 3, [0, 1]),
        (0, 1, []),
    ],
)
def test_the_middle_of_equal_parts(count, most, positions):
    assert sample_positions(count, most, "middle") == positions


def test_tokens():
    out = tokenize(["A photo of a cat", "", "word " * 100], 8)
    assert out.dtype == torch.int64
    assert out[0].tolist() == [START, 320, 1125, 539, 320, 2368, END, PAD]
    assert out[1].tolist() == [START, END] + [PAD] * 6
    assert out[2].tolist() == [START] + [2653] * 6 + [END]


def test_spelt_out_control_tokens_are_dropped():
    out = tokenize(["a <end_of_text> cat"], 8)[0].tolist()
    assert out == [START, 320, 2368, END] + [PAD] * 4
