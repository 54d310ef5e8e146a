"""Thumbnails of clips: a frame from the middle above the audio as a strip of log-mel."""

import base64
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.thumbnail import FRAME, STRIP, WIDTH, thumbnail
from clip4vla.common.errors import UserError
from clip4vla.pages.media import Addresses, nowhere

LEGEND = (
    "A picture is a frame from the middle of the clip above its own sound (log-mel, time to the "
    "right); grey where it has none."
)


class Shown(NamedTuple):
    """A clip on a page. thumbnail: its class; audio_origin, sound_of: of `predictions.parquet`."""

    clip_id: str
    thumbnail: str
    plays: bool
    audio_origin: str = ""
    sound_of: str = ""


class Thumbnails:
    """Thumbnails as classes of a style sheet, so that a page contains each of them once."""

    def __init__(self, cache: ClipCache, address: Addresses = nowhere) -> None:
        self.cache = cache
        self.address = address
        self.classes: dict[str, str] = {}
        self.media: dict[str, str] = {}  # class -> address of the clip, of those that can be played

    def of(self, clip_id: str, row: pd.Series | None = None) -> Shown:
        """Return a clip to show; row: its predictions, to tell whose sound it has."""
        if clip_id not in self.classes:
            name = self.classes[clip_id] = f"t{len(self.classes)}"
            if address := self.address(clip_id):
                self.media[name] = address
        name = self.classes[clip_id]
        plays = name in self.media
        if row is None:
            return Shown(clip_id, name, plays)
        return Shown(clip_id, name, plays, row.audio_origin, row.sound_of)

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
    jpegs, log_mel = cache.read_frames(clip_id, 3), cache.read_log_mel(clip_id)
    try:
        return thumbnail(jpegs[len(jpegs) // 2] if jpegs else None, log_mel)
    except OSError:
        raise UserError(
            f"clip {clip_id}: corrupt JPEG frame. Fix: run `clip4vla data verify --repair`"
        ) from None
