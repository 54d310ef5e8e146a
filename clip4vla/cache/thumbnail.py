"""A small picture of a clip: a frame above its sound as a strip of log-mel."""

import io

import numpy as np
import torch
from PIL import Image, ImageOps

WIDTH, FRAME, STRIP = 144, 80, 28  # pixels; FRAME ends with a block of JPEG, so nothing blurs
QUALITY = 60  # of JPEG: 3 to 5 KB per thumbnail
QUIET, LOUD = np.array([16, 24, 48]), np.array([255, 214, 102])
EMPTY = (222, 227, 232)  # grey in place of a missing frame or sound


def thumbnail(jpeg: bytes | bytearray | None, log_mel: torch.Tensor | None) -> bytes:
    """Return a JPEG, WIDTH x (FRAME + STRIP); grey where there is no frame or no sound.

    Raises OSError for a corrupt frame.
    """
    canvas = Image.new("RGB", (WIDTH, FRAME + STRIP), EMPTY)
    if jpeg is not None:
        frame = Image.open(io.BytesIO(jpeg)).convert("RGB")
        canvas.paste(ImageOps.fit(frame, (WIDTH, FRAME)), (0, 0))
    if log_mel is not None:
        canvas.paste(sound_strip(log_mel), (0, FRAME))
    stream = io.BytesIO()
    canvas.save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()


def sound_strip(log_mel: torch.Tensor, width: int = WIDTH, height: int = STRIP) -> Image.Image:
    """Draw a log-mel [C, T, n_mels], width x height pixels: time to the right, low bands below."""
    values = log_mel[len(log_mel) // 2].float().numpy().T[::-1]  # [n_mels, T]
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    small = np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
    share = small[..., None] / 255
    return Image.fromarray((QUIET + share * (LOUD - QUIET)).astype(np.uint8))
