"""Pictures and sound of one window of a file, without decoding what comes before it.

Seconds count as in the index: pictures from the file's first picture, sound from its first sample.
"""

import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Stream

from clip4vla.media.decode import (
    DecodeError,
    Frame,
    Mixdown,
    NoStream,
    frames_of,
    open_media,
    picture_stream,
    sound_stream,
)
from clip4vla.media.pictures import as_shown, credible_rate, pixel_stretch, progressive, timed

LEAD = 0.5  # seconds decoded before a window: decoders of sound need some packets to settle


def pictures_between(
    path: str | Path, start: float, end: float, tallest: int, seek: bool = True
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (seconds from `start`, RGB pixels uint8 [H, W, 3]) of the pictures shown in a window.

    They are as a viewer sees them (`media.pictures`), and at most about `tallest` pixels high. The
    first one may have begun before the window; its time is 0. Raises NoStream, and DecodeError for
    pixels that cannot be converted.
    """
    with open_media(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise NoStream(f"{path}: no video stream")
        seek = seek and credible_rate(stream)
        found = _frames_from(container, stream, av.VideoFrame, start if seek else 0.0)
        if found is None:
            yield from pictures_between(path, start, end, tallest, seek=False)
            return
        first, frames = found
        stretch = pixel_stretch(stream)
        before: av.VideoFrame | None = None  # the last one that begins before the window
        until = 0.0
        for begin, length, frame in timed(progressive(frames), stream):
            at = first + begin - start
            if at <= 0:
                before, until = frame, at + length
                continue
            if before is not None:
                yield 0.0, _small(before, stretch, tallest)
                before = None
            if at >= end - start:
                return
            yield at, _small(frame, stretch, tallest)
        if before is not None and until > 0:
            yield 0.0, _small(before, stretch, tallest)


def sound_between(
    path: str | Path, start: float, end: float, seek: bool = True
) -> tuple[Iterator[np.ndarray], int]:
    """Return the sound of a window, in blocks float32 [C, n], C = 1 or 2, and its rate in Hz.

    Raises NoStream, and DecodeError if the window contains no sound that can be decoded.
    """
    mix = Mixdown()
    blocks = _sound(path, start, end, mix, seek)
    first = next((block for block in blocks if block.shape[1]), None)
    if first is None:
        raise DecodeError(f"{path}: no sound could be decoded at {start:.1f} s")
    return chain([first], blocks), mix.rate


def _sound(
    path: str | Path, start: float, end: float, mix: Mixdown, seek: bool
) -> Iterator[np.ndarray]:
    with open_media(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise NoStream(f"{path}: no audio stream")
        found = _frames_from(container, stream, av.AudioFrame, start if seek else 0.0)
        if found is None:
            yield from _sound(path, start, end, mix, seek=False)
            return
        first, frames = found
        samples = 0  # decoded so far, from `first` on
        added = (block for frame in frames for block in mix.add(frame))
        for block in chain(added, mix.rest()):
            begin, stop = (round((second - first) * mix.rate) - samples for second in (start, end))
            samples += block.shape[1]
            if begin < block.shape[1]:
                yield block[:, max(begin, 0) : max(stop, 0)]
            if stop <= block.shape[1]:
                return


def _frames_from(
    container: InputContainer, stream: Stream, kind: type[Frame], start: float
) -> tuple[float, Iterator[Frame]] | None:
    """Return the second of the first frame, at `start` or before, and all frames from it on.

    None if the container cannot seek there: then decode it from the beginning.
    """
    if start <= LEAD:
        return 0.0, frames_of(container, stream, kind)
    assert stream.time_base is not None, "containers have one"
    origin = float((stream.start_time or 0) * stream.time_base)
    with contextlib.suppress(av.FFmpegError):  # then it stands at its beginning, which is checked
        container.seek(int((start - LEAD + origin) / stream.time_base), stream=stream)
    frames = frames_of(container, stream, kind)
    first = next(frames, None)
    if first is None or first.time is None or first.time - origin > start:
        return None
    return first.time - origin, chain([first], frames)


def _small(frame: av.VideoFrame, stretch: float, tallest: int) -> np.ndarray:
    try:
        return as_shown(frame, stretch, min(1.0, tallest / max(frame.height, 1)))
    except av.FFmpegError as error:
        raise DecodeError(f"a picture that cannot be converted: {error.strerror}") from None
