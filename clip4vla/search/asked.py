"""Read the sound, picture or video that is searched by, from files of strangers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clip4vla.cache.frames import encode
from clip4vla.common.errors import UserError
from clip4vla.config.sections import Modality
from clip4vla.config.settings import Settings
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.search.media import one_line
from clip4vla.search.windows import LONGEST, Cut, Decoded, Finished, Piece, pieces_of

NAMES: dict[Modality, str] = {"audio": "sound", "vision": "picture"}


def read_media(path: Path, settings: Settings, modalities: Sequence[Modality]) -> Piece:
    """Return the first five minutes of a file as one window.

    UserError for a file that cannot be decoded, or has none of the modalities.
    """
    first = partial(first_piece, settings=settings, modalities=modalities)
    with Isolated(first) as isolated:
        try:
            piece = isolated(path, patience(path))
        except (Crashed, OSError) as error:
            piece = Finished("", one_line(error, path))
    if isinstance(piece, Finished):
        raise UserError(f"{path}: {piece.problem}. Fix: give a sound or video file that plays")
    if piece.log_mel is None and not piece.jpegs:
        wanted = " and no ".join(NAMES[name] for name in modalities)
        raise UserError(f"{path}: no {wanted} in it. Fix: give another file")
    return piece


def first_piece(path: Path, settings: Settings, modalities: Sequence[Modality]) -> Decoded:
    """Return the first five minutes of a file as one window, or `Finished` without one."""
    return next(pieces_of(path, settings, Cut(LONGEST, LONGEST), modalities))


def read_image(path: Path, settings: Settings) -> Piece:
    """Return a picture as a window of one frame. UserError for a file that is no picture."""
    with Isolated(partial(_jpeg, settings=settings)) as isolated:
        try:
            jpeg = isolated(path, patience(path))
        except Exception as error:  # of a decoder, or its end
            raise UserError(
                f"{path}: not a picture that can be read ({one_line(error, path)}). Fix: give a "
                "JPEG or PNG file"
            ) from None
    return Piece(0, 0.0, 0.0, [jpeg], None, b"")


def _jpeg(path: Path, settings: Settings) -> bytes:
    with Image.open(path) as image:
        frame = ImageOps.exif_transpose(image).convert("RGB")
    return encode(np.asarray(frame), settings.cache.frames)
