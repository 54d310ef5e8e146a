"""Media files as what the towers read: whole, or in windows of equal length.

The same steps as the cache's (`features.shards`) and a sample's (`features.samples`): a file gives
the numbers here that it gives in training and evaluation. Nothing that a file holds raises: it
becomes a status.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clip4vla.config.settings import Settings
from clip4vla.features.frames import SIZE, encode, sample_positions, to_pixels
from clip4vla.features.log_mel import LogMelFrontend
from clip4vla.features.segments import SEGMENT, segment_count, split
from clip4vla.media.decode import (
    DecodeError,
    Mixdown,
    decode_frames,
    frames_of,
    open_media,
    picture_stream,
    sound_stream,
)
from clip4vla.media.status import AudioStatus, VideoStatus

SHORTEST = 0.1  # seconds; what is left after the last whole window is dropped below it
NO_IMAGES = torch.zeros(0, 3, SIZE, SIZE)


class Clip(NamedTuple):
    """One file, or one window of it."""

    start: float  # seconds from the beginning of the file
    end: float
    status: str  # of `media.status.AudioStatus` or `VideoStatus`
    detail: str = ""  # what a decoder said
    images: Tensor = NO_IMAGES  # [n, C, 224, 224]: frames uint8 RGB, or segments float32
    times: np.ndarray = np.zeros((0, 2))  # float64 [n, 2]: where in the file each one lies, seconds
    file: int = 0  # its index in a list of files


def sounds(path: str | Path, settings: Settings, every: float | None = None) -> Iterator[Clip]:
    """What is heard in a file: one clip, or one for each `every` seconds.

    A clip that is digital silence, or a file without sound, has a status and no images.
    """
    front_end, start = LogMelFrontend(settings.cache.log_mel), 0.0
    try:
        for waveform, rate in _waveforms(path, every):
            yield sound(waveform, rate, settings, front_end, start)
            start += waveform.shape[1] / rate
    except _NoStream:
        yield Clip(start, start, AudioStatus.NO_AUDIO_STREAM)
    except Exception as error:  # of this file, whatever it is
        yield Clip(start, start, AudioStatus.DECODE_ERROR, _said(error, path))


def sound(
    waveform: np.ndarray, rate: int, settings: Settings, front_end: LogMelFrontend, start: float = 0
) -> Clip:
    """A waveform [C, n] at `rate` Hz. ValueError for samples that are no numbers."""
    seconds = waveform.shape[1] / rate
    if not waveform.any():
        return Clip(start, start + seconds, AudioStatus.DIGITAL_SILENCE)
    log_mel = front_end(waveform, rate)  # float16, as in the cache: [C, T, 224] in dB
    images = split(log_mel, settings.inputs)
    config, steps = settings.cache.log_mel, log_mel.shape[1]
    count = segment_count(steps, settings.inputs.extra_segment)
    first = max(count - len(images), 0) // 2  # the central ones are kept
    length = SEGMENT * config.hop / config.sample_rate  # seconds of a segment
    begins = (first + np.arange(len(images))) * length
    times = start + np.stack([begins, begins + length], axis=1).clip(max=seconds)
    return Clip(start, start + seconds, AudioStatus.OK, "", images, times)


def pictures(path: str | Path, settings: Settings, every: float | None = None) -> Iterator[Clip]:
    """What is seen in a file: one clip, or one for each `every` seconds.

    A clip's frames are spread evenly over it, at most `max_frames` of those the cache would keep.
    """
    config, start = settings.cache.frames, 0.0
    window = every or float("inf")
    try:
        _expect_pictures(path)
        shown = enumerate(decode_frames(path, config.fps))
        for _, group in groupby(shown, lambda pair: int(pair[0] / config.fps / window + 1e-9)):
            jpegs = {position: encode(frame, config) for position, frame in group}
            positions = list(jpegs)
            kept = [positions[i] for i in sample_positions(len(jpegs), settings.inputs.max_frames)]
            images = torch.stack([to_pixels(jpegs[position]) for position in kept])
            begins = np.array(kept) / config.fps
            times = np.stack([begins, begins + 1 / config.fps], axis=1)
            start, end = positions[0] / config.fps, (positions[-1] + 1) / config.fps
            yield Clip(start, end, VideoStatus.OK, "", images, times)
            start = end
    except _NoStream:
        yield Clip(start, start, VideoStatus.NO_VIDEO_STREAM)
    except Exception as error:  # of this file, whatever it is
        yield Clip(start, start, VideoStatus.DECODE_ERROR, _said(error, path))


READERS: dict[str, Callable[..., Iterator[Clip]]] = {"audio": sounds, "video": pictures}


class Clips(IterableDataset):
    """The clips of many files; each worker reads files of its own."""

    def __init__(
        self, kind: str, files: Sequence[Path], settings: Settings, every: float | None = None
    ):
        self.kind, self.files, self.settings, self.every = kind, files, settings, every

    def __iter__(self) -> Iterator[Clip]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, len(self.files), step):
            for clip in READERS[self.kind](self.files[index], self.settings, self.every):
                yield clip._replace(file=index)

    def read(self, workers: int) -> Iterable[Clip]:
        """All clips; with `workers` above 1 they are processes, which end with the parent."""
        processes = min(workers, len(self.files)) if workers > 1 else 0
        given = {"worker_init_fn": _ignore_interrupts, "generator": torch.Generator()}
        return DataLoader(
            self, batch_size=None, num_workers=processes, collate_fn=_as_it_is, **given
        )


def _as_it_is(clip: Clip) -> Clip:
    return clip


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole group: the parent alone says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def is_media(path: str | Path) -> bool:
    """Whether a file is a media file by its content."""
    try:
        open_media(path).close()
    except (OSError, DecodeError):
        return False
    return True


class _NoStream(DecodeError):
    """A media file without the kind of stream that was asked for."""


def _expect_pictures(path: str | Path) -> None:
    with open_media(path) as container:
        if picture_stream(container) is None:
            raise _NoStream(f"{path}: no video stream")


def _waveforms(path: str | Path, every: float | None) -> Iterator[tuple[np.ndarray, int]]:
    """The first sound track as float32 [C, n] with its rate: whole, or `every` seconds at a time.

    Packets that cannot be decoded are left out.
    """
    mix, held, length, given = Mixdown(), [], 0, False
    for block in _blocks(path, mix):
        held.append(block)
        length += block.shape[1]
        size = round(every * mix.rate) if every else length + 1
        while length >= size:
            whole = np.concatenate(held, axis=1)
            yield whole[:, :size], mix.rate
            held, length, given = [whole[:, size:]], length - size, True
    if length >= SHORTEST * mix.rate or (length and not given):
        yield np.concatenate(held, axis=1), mix.rate
    elif not given:
        raise DecodeError(f"{path}: no sound could be decoded")


def _blocks(path: str | Path, mix: Mixdown) -> Iterator[np.ndarray]:
    with open_media(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise _NoStream(f"{path}: no audio stream")
        for frame in frames_of(container, stream):
            yield from mix.add(frame)
        yield from mix.rest()


def _said(error: Exception, path: str | Path) -> str:
    """One line, without the path, which has a column of its own."""
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.replace(f"{path}: ", "").split())[:200]
