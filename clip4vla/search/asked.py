"""Read the sound, picture or video that is searched by, from files of strangers."""

import warnings
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

IMAGES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # of Pillow's formats; others run programs
NAMES: dict[Modality, str] = {"audio": "sound", "vision": "picture"}


def read_media(path: Path, settings: Settings, modalities: Sequence[Modality]) -> Piece:
    """Return the first five minutes of a file as one window.

    UserError for a file that cannot be decoded, or has none of the modalities.
    """
    _check_file(path)
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
    """Return a picture as a window of one frame.

    UserError for a file that is no picture, or a picture that is too large.
    """
    _check_file(path)
    with Isolated(partial(_jpeg, settings=settings)) as isolated:
        try:
            jpeg = isolated(path, patience(path))
        except UserError:
            raise
        except Exception as error:  # of a decoder, or its end
            raise UserError(
                f"{path}: not a picture that can be read ({one_line(error, path)}). Fix: give a "
                "JPEG or PNG file"
            ) from None
    return Piece(0, 0.0, 0.0, [jpeg], None, b"")


def open_image(path: str | Path) -> Image.Image:
    """Open a picture. Raises UserError for a huge one, and whatever Pillow's plugins raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half as much
            return Image.open(path, formats=IMAGES)
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise UserError(
            f"{path}: a picture of more than {most} megapixels. Fix: make it smaller"
        ) from None


def _jpeg(path: Path, settings: Settings) -> bytes:
    with open_image(path) as image:
        frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    try:
        return encode(frame, settings.cache.frames)
    except ValueError as error:  # thousands of times as long as it is wide
        raise UserError(f"{path}: {error}. Fix: cut out the part that matters") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        problem = "not a file" if path.exists() else "no such file"
        raise UserError(f"{path}: {problem}. Fix: correct the path")
