"""Images of a window: a picture from its middle, and its sound as the model reads it."""

import io
from pathlib import Path

from PIL import Image

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.thumbnail import QUIET, sound_strip
from clip4vla.media.decode import DecodeError
from clip4vla.search.app.excerpt import pictures_between, sound_between

WIDTH, HEIGHT = 640, 96  # pixels of a spectrogram: sharp at twice the size of a card
TALLEST, QUALITY = 360, 80  # of a picture: pixels, JPEG


def still(path: str | Path, start: float, end: float) -> bytes:
    """Return the picture in the middle of a window, a JPEG.

    Raises NoStream and DecodeError if there is no picture.
    """
    middle = (start + end) / 2
    _, pixels = next(pictures_between(path, middle, end, TALLEST), (0.0, None))
    if pixels is None:
        raise DecodeError(f"{path}: no picture could be decoded at {middle:.1f} s")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()


def spectrogram(path: str | Path, start: float, end: float, front_end: LogMelFrontend) -> bytes:
    """Return a PNG of WIDTH x HEIGHT that spans a window, time to the right.

    It is dark behind the end of the sound. Raises NoStream and DecodeError as `sound_between`.
    """
    blocks, rate = sound_between(path, start, end)
    log_mel = front_end(blocks, rate)  # [C, T, n_mels]
    seconds = log_mel.shape[1] / front_end.config.steps_per_second
    width = min(WIDTH, max(1, round(WIDTH * seconds / (end - start))))
    canvas = Image.new("RGB", (WIDTH, HEIGHT), tuple(int(value) for value in QUIET))
    canvas.paste(sound_strip(log_mel, width, HEIGHT), (0, 0))
    stream = io.BytesIO()
    canvas.save(stream, format="PNG")
    return stream.getvalue()
