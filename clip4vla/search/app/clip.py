"""A window as a small mp4, for formats that browsers do not play.

H.264 with AAC is played by every browser, and PyAV's wheels contain both encoders.
"""

import errno
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from clip4vla.common.files import whole_file
from clip4vla.media.decode import DecodeError, NoStream
from clip4vla.search.app.excerpt import pictures_between, sound_between

FPS, TALLEST = 30, 480  # at most: pictures a second, pixels
RATE = 48_000  # Hz
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of the disk, not of the file
FAST = {"preset": "ultrafast", "crf": "26"}

T = TypeVar("T")


def write_clip(
    path: str | Path,
    start: float,
    end: float,
    out: Path,
    tallest: int = TALLEST,
    sound_bits: int | None = None,
) -> None:
    """Write a window of a file as mp4, its pictures and its sound, atomically.

    tallest: pixels of pictures, at most; sound_bits: a second, None: what the encoder chooses.
    Raises DecodeError if neither can be decoded, and if this PyAV cannot encode them; OSError for a
    full disk.
    """
    pictures = _unless_empty(pictures_between(path, start, end, tallest))
    sound = _sound(path, start, end)
    if pictures is None and sound is None:
        raise DecodeError(f"{path}: nothing could be decoded at {start:.1f} s")
    try:
        with (
            whole_file(out) as temporary,
            av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as movie,
        ):
            packets: list[Iterator[list[av.Packet]]] = []
            if pictures is not None:
                packets.append(_encoded_pictures(movie, pictures))
            if sound is not None:
                blocks, rate = sound
                packets.append(_encoded_sound(movie, blocks, rate, bits=sound_bits))
            firsts = [next(some) for some in packets]  # all streams exist before one is written
            for some in chain(firsts, *packets):
                movie.mux(some)
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise DecodeError(f"{path}: cannot be converted for a browser ({error})") from None


def _sound(path: str | Path, start: float, end: float) -> tuple[Iterator[np.ndarray], int] | None:
    try:
        return sound_between(path, start, end)
    except DecodeError:
        return None


def _unless_empty(items: Iterator[T]) -> Iterator[T] | None:
    try:
        first = next(items, None)
    except NoStream:
        return None
    return None if first is None else chain([first], items)


def _encoded_pictures(
    movie: OutputContainer, pictures: Iterator[tuple[float, np.ndarray]]
) -> Iterator[list[av.Packet]]:
    stream: VideoStream = movie.add_stream("libx264", rate=FPS, options=FAST)
    stream.pix_fmt = "yuv420p"
    last = -1
    for at, pixels in pictures:
        tick = round(at * FPS)
        if tick <= last:
            continue
        if last < 0:
            stream.height, stream.width = (max(side // 2 * 2, 2) for side in pixels.shape[:2])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base, last = tick, Fraction(1, FPS), tick
        yield list(stream.encode(frame))
    yield list(stream.encode(None))


def _encoded_sound(
    movie: OutputContainer, blocks: Iterator[np.ndarray], rate: int, bits: int | None
) -> Iterator[list[av.Packet]]:
    stream: AudioStream = movie.add_stream("aac", rate=RATE)
    if bits is not None:
        stream.bit_rate = bits
    samples = 0
    for block in blocks:
        layout = "stereo" if len(block) == 2 else "mono"
        if samples == 0:
            stream.layout = layout
        loud = np.ascontiguousarray(np.clip(block, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(loud, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, samples, Fraction(1, rate)
        samples += block.shape[1]
        yield list(stream.encode(frame))
    yield list(stream.encode(None))
