"""Decode media files into inputs of a model: as one clip, or in windows of equal length.

The steps are those of the cache (`cache/shards.py`) and of samples (`loading/samples.py`), so a
file has the same values here as in training and evaluation. A file that cannot be decoded raises
no error; its clip has a status. Only the pictures as JPEG and the log-mel are held in memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from clip4vla.cache.frames import encode, sample_positions, to_pixels
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.settings import Settings
from clip4vla.loading.segment_counts import segment_count
from clip4vla.loading.segments import split
from clip4vla.media.decode import (
    LONGEST_SECONDS,
    DecodeError,
    NoStream,
    TooLong,
    decode_frames,
    open_media,
    sound_blocks,
)
from clip4vla.media.isolated import isolated_each, patience
from clip4vla.media.status import AudioStatus, VideoStatus

Kind = Literal["audio", "video"]

SHORTEST = 0.1  # seconds; a shorter rest after the last full window is dropped
WINDOWS = ". Fix: cut it, or embed it in windows (`clip4vla embed --every`)"
NO_IMAGES = np.zeros((0, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)


class MediaWindow(NamedTuple):
    """A file, or one window of it."""

    start: float  # seconds from the beginning of the file
    end: float
    status: str  # of `media.status.AudioStatus` or `VideoStatus`
    detail: str = ""  # message of a decoder
    images: np.ndarray = NO_IMAGES  # [n, C, 224, 224]: frames uint8 RGB, or segments float32
    times: np.ndarray = np.zeros((0, 2))  # float64 [n, 2]: begin and end in the file, seconds
    file: int = 0  # its index in a list of files


def audio_clips(
    path: str | Path, settings: Settings, every: float | None = None
) -> Iterator[MediaWindow]:
    """Yield the sound of a file: one clip, or one for each `every` seconds.

    A clip of digital silence, a file without sound, and a file of more than an hour without
    `every` have a status and no images.
    """
    front_end, start = LogMelFrontend(settings.cache.log_mel), 0.0
    try:
        blocks, rate = sound_blocks(path, math.inf if every else LONGEST_SECONDS)
        for window in _windows(blocks, round(every * rate) if every else math.inf):
            clip = audio_clip(window, rate, settings, front_end, start)
            if start and round((clip.end - start) * rate) < SHORTEST * rate:
                break
            yield clip
            start = clip.end
    except NoStream:
        yield MediaWindow(start, start, AudioStatus.NO_AUDIO_STREAM)
    except TooLong as error:
        yield MediaWindow(start, start, AudioStatus.TOO_LONG, one_line(error, path) + WINDOWS)
    except Exception as error:  # any error of this file
        yield MediaWindow(start, start, AudioStatus.DECODE_ERROR, one_line(error, path))


def _windows(blocks: Iterable[np.ndarray], size: float) -> Iterator[Iterator[np.ndarray]]:
    """Yield the blocks of each `size` samples of a waveform, given in blocks [C, n]."""

    def pieces() -> Iterator[tuple[int, np.ndarray]]:
        window, space = 0, size
        for block in blocks:
            while block.shape[1] > space:
                yield window, block[:, :space]
                window, block, space = window + 1, block[:, space:], size
            if block.shape[1]:
                yield window, block
                space -= block.shape[1]

    for _, group in groupby(pieces(), lambda piece: piece[0]):
        yield (block for _, block in group)


def audio_clip(
    blocks: Iterable[np.ndarray],
    rate: int,
    settings: Settings,
    front_end: LogMelFrontend,
    start: float = 0,
) -> MediaWindow:
    """Return the clip of a waveform at `rate` Hz, in blocks [C, n]. ValueError for NaN samples."""
    samples, silent = 0, True

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples, silent
        for block in blocks:
            samples += block.shape[1]
            silent = silent and not block.any()
            yield block

    log_mel = front_end(counted(), rate)  # float16, as in the cache: [C, T, 224] in dB
    seconds = samples / rate
    if silent:
        return MediaWindow(start, start + seconds, AudioStatus.DIGITAL_SILENCE)
    images = split(log_mel, settings.inputs).numpy()
    config, steps = settings.cache.log_mel, log_mel.shape[1]
    count = segment_count(steps, settings.inputs)
    first = max(count - len(images), 0) // 2  # the central ones are kept
    length = settings.inputs.segment_steps / config.steps_per_second  # seconds of a segment
    begins = (first + np.arange(len(images))) * length
    times = start + np.stack([begins, begins + length], axis=1).clip(max=seconds)
    return MediaWindow(start, start + seconds, AudioStatus.OK, "", images, times)


def video_clips(
    path: str | Path, settings: Settings, every: float | None = None
) -> Iterator[MediaWindow]:
    """Yield the pictures of a file: one clip, or one for each `every` seconds.

    A clip's frames are those that `inputs` chooses, at most `max_frames`, of those the cache would
    keep.
    A file of more than an hour without `every` has a status and no images.
    """
    config, inputs, start = settings.cache.frames, settings.inputs, 0.0
    window, longest = (every, math.inf) if every else (math.inf, LONGEST_SECONDS)
    try:
        frames = enumerate(decode_frames(path, config.fps, longest=longest))
        for _, group in groupby(frames, lambda pair: int(pair[0] / config.fps / window + 1e-9)):
            jpegs = {position: encode(frame, config) for position, frame in group}
            positions = list(jpegs)
            chosen = sample_positions(len(jpegs), inputs.max_frames, inputs.frame_choice)
            kept = [positions[i] for i in chosen]
            images = torch.stack([to_pixels(jpegs[position]) for position in kept]).numpy()
            begins = np.array(kept) / config.fps
            times = np.stack([begins, begins + 1 / config.fps], axis=1)
            start, end = positions[0] / config.fps, (positions[-1] + 1) / config.fps
            yield MediaWindow(start, end, VideoStatus.OK, "", images, times)
            start = end
    except NoStream:
        yield MediaWindow(start, start, VideoStatus.NO_VIDEO_STREAM)
    except TooLong as error:
        yield MediaWindow(start, start, VideoStatus.TOO_LONG, one_line(error, path) + WINDOWS)
    except Exception as error:  # any error of this file
        yield MediaWindow(start, start, VideoStatus.DECODE_ERROR, one_line(error, path))


DECODERS: dict[Kind, Callable[..., Iterator[MediaWindow]]] = {
    "audio": audio_clips,
    "video": video_clips,
}


def read_groups(
    kind: Kind,
    files: Sequence[Path],
    settings: Settings,
    every: float | None,
    processes: int,
    size: int,
) -> Iterator[list[MediaWindow]]:
    """Yield the clips of many files in groups of about `size` images.

    A file that kills its decoding process affects no other file. A group has windows of one file,
    or files in their order. So it does not depend on the speed of processes, nor do the last bits
    of a vector, which depend on the group.
    """
    decoder = partial(DECODERS[kind], settings=settings, every=every)
    results = isolated_each(decoder, files, patience, min(processes, len(files)))
    clips = _numbered(results, files)
    return _by_file(clips, size) if every else grouped(_in_order(clips), size)


def _numbered(
    results: Iterable[tuple[int, Any]], files: Sequence[Path]
) -> Iterator[tuple[int, Any]]:
    """Yield (file, clip) for every clip and exception, and (file, None) at a file's end."""
    ends = [0.0] * len(files)
    for file, item in results:
        if isinstance(item, Exception):
            end = ends[file]
            item = MediaWindow(end, end, AudioStatus.DECODE_ERROR, one_line(item, files[file]))
        if item is not None:
            ends[file] = item.end
            item = item._replace(file=file)
        yield file, item


def _in_order(clips: Iterable[tuple[int, MediaWindow | None]]) -> Iterator[MediaWindow]:
    """Yield the first clip of every file, in the order of the files."""
    waiting: dict[int, MediaWindow] = {}
    next_file = 0
    for file, clip in clips:
        if clip is not None:
            waiting.setdefault(file, clip)
        while next_file in waiting:
            yield waiting.pop(next_file)
            next_file += 1


def _by_file(
    clips: Iterable[tuple[int, MediaWindow | None]], size: int
) -> Iterator[list[MediaWindow]]:
    """Yield groups of about `size` images, each of one file."""
    waiting: dict[int, list[MediaWindow]] = {}
    for file, clip in clips:
        group = waiting.setdefault(file, [])
        group += [] if clip is None else [clip]
        if group and (clip is None or _images(group) >= size):
            yield waiting.pop(file)


def grouped(clips: Iterable[MediaWindow], size: int) -> Iterator[list[MediaWindow]]:
    """Yield clips in their order, in groups of about `size` images."""
    group: list[MediaWindow] = []
    for clip in clips:
        group.append(clip)
        if _images(group) >= size:
            yield group
            group = []
    if group:
        yield group


def _images(group: Sequence[MediaWindow]) -> int:
    return sum(len(clip.images) for clip in group)


def is_media(path: str | Path) -> bool:
    """Return whether a file is a media file by its content."""
    try:
        open_media(path).close()
    except (OSError, DecodeError):
        return False
    return True


def one_line(error: Exception, path: str | Path) -> str:
    """Return an error as one line, without the path, which has a column of its own."""
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.replace(f"{path}: ", "").split())[:200]
