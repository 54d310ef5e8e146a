"""Video frames: resized JPEG for the cache, central squares at reading (facts 4.1).

Pillow resizes (bicubic with antialiasing, the filter CLIP was trained with) and encodes;
torchvision decodes the same pixels in two thirds of the time. Colours are RGB throughout; the
released code swaps red and blue, and swaps them back at reading.
"""

import io

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from clip4vla.config.data import IMAGE_SIZE, Frames
from clip4vla.config.sections import FrameChoice

LONGEST_JPEG = 65500  # pixels


def resize(image: Image.Image, short_side: int) -> Image.Image:
    """Resize (bicubic) to `short_side` pixels on the short side; the long one is rounded down."""
    size = resized(*image.size, short_side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the size of an image after `resize`."""
    short = min(width, height)
    return width * short_side // short, height * short_side // short


def encode(frame: np.ndarray, config: Frames) -> bytes:
    """Encode a frame, uint8 RGB [H, W, 3], as JPEG with the cache's short side.

    Raises ValueError for a frame so narrow that its long side would be too long for a JPEG.
    """
    height, width = frame.shape[:2]
    if max(resized(width, height, config.short_side)) > LONGEST_JPEG:
        raise ValueError(f"a frame of {width} x {height} is too long for a JPEG")
    stream = io.BytesIO()
    image = resize(Image.fromarray(frame), config.short_side)
    image.save(stream, format="JPEG", quality=config.jpeg_quality)
    return stream.getvalue()


def sample_positions(count: int, most: int, choice: FrameChoice = "spread") -> list[int]:
    """Return at most `most` of `count` positions, in order.

    spread: linspace(0, count - 1, most), truncated. middle: the middle of each of `most` equal
    parts; of one position, count // 2.
    """
    if count <= most:
        return list(range(count))
    if choice == "middle":
        return [(2 * part + 1) * count // (2 * most) for part in range(most)]
    return np.linspace(0, count - 1, most).astype(int).tolist()


def to_pixels(jpeg: bytes | bytearray) -> torch.Tensor:
    """Decode a JPEG to uint8 RGB [3, 224, 224]: short side 224, central square.

    CLIP's mean and standard deviation are applied in the vision tower, because bytes are a quarter
    of the floats to copy from worker to trainer to GPU. Raises OSError for a corrupt JPEG.
    """
    try:
        jpeg = jpeg if isinstance(jpeg, bytearray) else bytearray(jpeg)  # writable, for torch
        data = torch.frombuffer(jpeg, dtype=torch.uint8)
        pixels = decode_jpeg(data, mode=ImageReadMode.RGB)  # [3, H, W]
    except (RuntimeError, ValueError) as error:
        raise OSError("corrupt or truncated JPEG") from error
    if min(pixels.shape[1:]) != IMAGE_SIZE:
        image = resize(Image.fromarray(pixels.permute(1, 2, 0).numpy()), IMAGE_SIZE)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    top, left = (round((side - IMAGE_SIZE) / 2.0) for side in pixels.shape[1:])
    return pixels[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
