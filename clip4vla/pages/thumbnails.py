"""Thumbnails of clips: a frame from the middle above the audio as a strip of log-mel."""

import base64
import io
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from PIL import Image, ImageOps

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError

WIDTH, FRAME, STRIP = 144, 80, 28  # pixels; FRAME ends with a block of JPEG, so nothing blurs
QUALITY = 60  # of JPEG: 3 to 5 KB per thumbnail
QUIET, LOUD = np.array([16, 24, 48]), np.array([255, 214, 102])
LEGEND = (
    "A picture is a frame from the middle of the clip above its own sound (log-mel, time to the "
    "right); grey where it has none."
)
EMPTY = (222, 227, 232)  # grey in place of a missing frame or sound


class Shown(NamedTuple):
    """A clip on a page. thumbnail: its class; audio_origin, sound_of: of `predictions.parquet`."""

    clip_id: str
    thumbnail: str
    audio_origin: str = ""
    sound_of: str = ""


class Thumbnails:
    """Thumbnails as classes of a style sheet, so that a page contains each of them once."""

    def __init__(self, cache: ClipCache) -> None:
        self.cache = cache
        self.classes: dict[str, str] = {}

    def of(self, clip_id: str, row: pd.Series | None = None) -> Shown:
        """Return a clip to show; row: its predictions, to tell whose sound it has."""
        name = self.classes.setdefault(clip_id, f"t{len(self.classes)}")
        if row is None:
            return Shown(clip_id, name)
        return Shown(clip_id, name, row.audio_origin, row.sound_of)

    def css(self) -> Markup:
        """Return the thumbnails of all clips that `of` was called for, as data URIs."""
        rules = [f".t{{width:{WIDTH}px;height:{FRAME + STRIP}px}}"]
        for clip_id, name in self.classes.items():
            data = base64.b64encode(picture(self.cache, clip_id)).decode()
            rules.append(f".{name}{{background-image:url(data:image/jpeg;base64,{data})}}")
        return Markup("\n".join(rules))


def picture(cache: ClipCache, clip_id: str) -> bytes:
    """Return a JPEG of a clip, WIDTH x (FRAME + STRIP); grey where it has no frame or no sound.

    Raises UserError for a clip that is not in the cache, and for a corrupt frame.
    """
    canvas = Image.new("RGB", (WIDTH, FRAME + STRIP), EMPTY)
    jpegs = cache.read_frames(clip_id, 3)
    if jpegs:
        try:
            frame = Image.open(io.BytesIO(jpegs[len(jpegs) // 2])).convert("RGB")
        except OSError:
            raise UserError(
                f"clip {clip_id}: corrupt JPEG frame. Fix: run `clip4vla data verify --repair`"
            ) from None
        canvas.paste(ImageOps.fit(frame, (WIDTH, FRAME)), (0, 0))
    log_mel = cache.read_log_mel(clip_id)
    if log_mel is not None:
        canvas.paste(sound_strip(log_mel), (0, FRAME))
    stream = io.BytesIO()
    canvas.save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()


def sound_strip(log_mel: torch.Tensor) -> Image.Image:
    """Draw a log-mel [C, T, n_mels], WIDTH x STRIP: time to the right, low bands below."""
    values = log_mel[len(log_mel) // 2].float().numpy().T[::-1]  # [n_mels, T]
    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    small = np.array(Image.fromarray(grey).resize((WIDTH, STRIP), Image.Resampling.BOX))
    share = small[..., None] / 255
    return Image.fromarray((QUIET + share * (LOUD - QUIET)).astype(np.uint8))
