"""What a file is: a format that browsers play, and the kind of query that it makes."""

from pathlib import Path
from typing import Literal

from PIL import UnidentifiedImageError

from clip4vla.common.errors import UserError
from clip4vla.media.decode import DecodeError, open_media, picture_stream, sound_stream
from clip4vla.search.asked import open_image

FileKind = Literal["audio", "image", "video"]

PLAYED = {  # libav's container -> media type, codecs of pictures and of sound that browsers play
    "mov,mp4,m4a,3gp,3g2,mj2": ("video/mp4", {"h264", "vp9", "av1"}, {"aac", "mp3", "opus"}),
    "matroska,webm": ("video/webm", {"vp8", "vp9", "av1"}, {"opus", "vorbis"}),
    "mp3": ("audio/mpeg", set(), {"mp3"}),
    "wav": ("audio/wav", set(), {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"}),
    "flac": ("audio/flac", set(), {"flac"}),
    "ogg": ("audio/ogg", set(), {"opus", "vorbis", "flac"}),
}
PIXELS = {"yuv420p", "yuvj420p"}  # 8 bits; browsers differ in the others


def played_type(path: str | Path) -> str | None:
    """Return the media type of a file that browsers play as it is, or None for another one.

    Raises DecodeError for a file that is no media file.
    """
    with open_media(path) as container:
        media_type, pictures, sounds = PLAYED.get(container.format.name, ("", set(), set()))
        video, audio = picture_stream(container), sound_stream(container)
        if video is not None and (
            video.codec.canonical_name not in pictures or video.pix_fmt not in PIXELS
        ):
            return None
        if audio is not None and audio.codec.canonical_name not in sounds:
            return None
        return media_type or None


def kind_of(path: str | Path) -> FileKind:
    """Return the kind of query that an uploaded file makes, by its content.

    Raises DecodeError for a file without pictures and sound, and UserError for a huge picture.
    """
    if _is_image(path):
        return "image"
    with open_media(path) as container:
        if picture_stream(container) is not None:
            return "video"
        if sound_stream(container) is not None:
            return "audio"
    raise DecodeError("neither pictures nor sound in it")


def _is_image(path: str | Path) -> bool:
    try:
        with open_image(path) as image:
            image.verify()
    except UnidentifiedImageError:
        return False
    except UserError:
        raise
    except Exception as error:  # Pillow raises whatever its plugins raise
        raise DecodeError(f"a broken picture ({error})") from None
    return True
