"""Cut a file of any length into windows of sound and pictures, while it is being decoded.

Each window is what the cache would hold of a clip cut out there (`cache/shards.py`): pictures on
the grid of the file, as JPEG, and the log-mel of its own samples. Memory holds one window.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from clip4vla.cache.frames import encode, sample_positions
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.cache.pieces import SampleBuffer
from clip4vla.cache.thumbnail import thumbnail
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.sections import Modality
from clip4vla.config.settings import Settings
from clip4vla.media.decode import NoStream, decode_frames, sound_blocks
from clip4vla.search.media import one_line

SHORTEST, LONGEST = 1.0, 300.0  # seconds of a window: a picture a second; the samples fit in memory
LEAST_HOP = 0.5  # seconds
LEAST_REST = 1.0  # seconds, or half a hop: a shorter rest of a file gets no window of its own


@dataclass(frozen=True)
class Cut:
    """How files are cut into windows: window k begins at k * hop seconds."""

    window: float  # seconds
    hop: float

    def __post_init__(self) -> None:
        if not SHORTEST <= self.window <= LONGEST:
            raise UserError(
                f"--window: {self.window:g} seconds is not valid. Fix: give {SHORTEST:g} to "
                f"{LONGEST:g}"
            )
        if not LEAST_HOP <= self.hop <= self.window:
            raise UserError(
                f"--hop: {self.hop:g} seconds is not valid. Fix: give {LEAST_HOP:g} to "
                f"{self.window:g}, the length of a window"
            )

    def start(self, number: int) -> float:
        """Return where a window begins, in seconds."""
        return number * self.hop

    def ends_before(self, number: int, seconds: float) -> bool:
        """Return whether a file of this length needs no window of this number."""
        covered = self.start(number - 1) + self.window
        return number > 0 and seconds - covered < min(LEAST_REST, self.hop / 2)


class Piece(NamedTuple):
    """A window of a file, still as it was decoded."""

    number: int  # of the window in its file
    start: float  # seconds from the beginning of the file
    end: float
    jpegs: list[bytes]  # the frames that the model reads; none where there is no picture
    log_mel: np.ndarray | None  # float16 [C, T, bands]; None for silence
    thumbnail: bytes  # JPEG


class Finished(NamedTuple):
    """The end of a file: its content, and what was wrong with it."""

    sha256: str
    problem: str = ""


Decoded = Piece | Finished
Part = TypeVar("Part")


def pieces_of(
    path: Path,
    settings: Settings,
    cut: Cut,
    modalities: Collection[Modality],
    first: int = 0,
) -> Iterator[Decoded]:
    """Yield the windows of a file from number `first` on, then `Finished`.

    A stream that cannot be decoded ends at its error; the other one is read on. modalities:
    without audio, sound is not decoded; pictures are, for the thumbnails.
    """
    problems = dict[str, str]()

    def guarded(name: str, parts: Iterator[Part]) -> Iterator[Part]:
        try:
            yield from parts
        except NoStream:
            pass
        except Exception as error:  # any error of this stream
            problems[name] = one_line(error, path)

    pictures = guarded("pictures", _pictures(path, settings, cut, first))
    heard = "audio" in modalities
    sounds = guarded("sound", _sounds(path, settings, cut, first)) if heard else iter(())
    decoded = 0
    for number in count(first):
        picture, sound = next(pictures, None), next(sounds, None)
        if picture is None and sound is None:
            break
        seen = picture or Pictures(0.0, [], None)
        log_mel, end = (None, 0.0) if sound is None else sound
        decoded += 1
        yield Piece(
            number=number,
            start=cut.start(number),
            end=max(seen.end, end),
            jpegs=seen.jpegs if "vision" in modalities else [],
            log_mel=None if log_mel is None else log_mel.numpy(),
            thumbnail=thumbnail(seen.middle, log_mel),
        )
    if not decoded and not first and not problems:
        problems["file"] = "no picture and no sound that the checkpoint reads"
    yield Finished(
        sha256_of_file(path), "; ".join(f"{name}: {what}" for name, what in problems.items())
    )


class Pictures(NamedTuple):
    """The pictures of a window."""

    end: float  # seconds
    jpegs: list[bytes]
    middle: bytes | None


def _pictures(path: Path, settings: Settings, cut: Cut, first: int) -> Iterator[Pictures]:
    """Yield the pictures of each window, which depend on nothing after it."""
    config, inputs = settings.cache.frames, settings.inputs
    kept: deque[tuple[float, bytes]] = deque()  # time and JPEG of the pictures of this window
    number, end = first, 0.0

    def window() -> Pictures:
        jpegs = [jpeg for _, jpeg in kept]
        chosen = sample_positions(len(jpegs), inputs.max_frames, inputs.frame_choice)
        begin = min(end, cut.start(number) + cut.window)
        middle = jpegs[len(jpegs) // 2] if jpegs else None
        return Pictures(begin, [jpegs[i] for i in chosen], middle)

    for index, frame in enumerate(decode_frames(path, config.fps, longest=math.inf)):
        time, end = index / config.fps, (index + 1) / config.fps
        while time >= cut.start(number) + cut.window - 1e-9:
            yield window()
            number += 1
            while kept and kept[0][0] < cut.start(number) - 1e-9:
                kept.popleft()
        if time >= cut.start(number) - 1e-9:
            kept.append((time, encode(frame, config)))
    while kept and not cut.ends_before(number, end):
        yield window()
        number += 1
        while kept and kept[0][0] < cut.start(number) - 1e-9:
            kept.popleft()


Sound = tuple[torch.Tensor | None, float]  # log-mel, None for silence, and its end in seconds


def _sounds(path: Path, settings: Settings, cut: Cut, first: int) -> Iterator[Sound]:
    """Yield the log-mel of each window, made of the samples of the window alone."""
    front_end, number = LogMelFrontend(settings.cache.log_mel), first
    blocks, rate = sound_blocks(path, math.inf)
    buffer = SampleBuffer()

    def place(seconds: float) -> int:
        return round(seconds * rate)

    def window() -> Sound:
        start = cut.start(number)
        samples = buffer.cut(place(start), place(start + cut.window))
        silent = not bool(samples.any())
        log_mel = None if silent else front_end(samples.numpy(), rate)
        return log_mel, start + samples.shape[1] / rate

    for block in blocks:
        buffer.add(torch.from_numpy(block))
        if buffer.end <= place(cut.start(first)):
            buffer.forget(buffer.end)
        while buffer.end >= place(cut.start(number) + cut.window):
            yield window()
            number += 1
            buffer.forget(place(cut.start(number)))
    while not cut.ends_before(number, buffer.end / rate) and buffer.end > place(cut.start(number)):
        yield window()
        number += 1
