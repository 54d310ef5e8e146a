"""Decode with PyAV: all sound at its own rate, and the pictures on a regular grid.

Files come from anywhere. Only regular files and media containers are opened, whatever the suffix:
never playlists or scripts that name other files or addresses.
"""

import math
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from clip4vla.media.containers import FILE, input_options
from clip4vla.media.pictures import MOST_PIXELS, as_shown, pixel_stretch, progressive, timed

RATES = (1_000, 1_000_000)  # plausible samples per second
LOUDEST = 100.0  # 40 dB over full scale: samples beyond it are no sound
LONGEST_SECONDS = 3600.0  # of one clip: its log-mel has 600 MB; longer ones are cut first
EMPTY_BYTES = 1 << 15  # of a transport stream without a packet, at least, when libav pauses
MOST_NAMED = 8  # channels: for more there is no standard order
DECODER = f"pyav {av.__version__}, libavcodec " + ".".join(
    str(part) for part in av.library_versions["libavcodec"]
)


Frame = TypeVar("Frame", av.VideoFrame, av.AudioFrame)


class DecodeError(RuntimeError):
    """The error for a file or stream that cannot be decoded."""


class NoStream(DecodeError):
    """The error for a media file without the requested kind of stream."""


class TooLong(DecodeError):
    """The error for a stream that is longer than a clip may be."""


def open_media(path: str | Path) -> InputContainer:
    """Open a media file by its content. Raises DecodeError if it is unreadable or no media file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecodeError(f"{path}: not a regular file")
        return av.open(
            f"file:{path}",
            options=input_options(FILE),
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def picture_stream(container: InputContainer) -> VideoStream | None:
    """Return the first video stream, or None: cover pictures of sound files do not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "NONE"  # libav's frame threads hang on damaged HEVC
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            return stream
    return None


def sound_stream(container: InputContainer) -> AudioStream | None:
    """Return the first audio stream that has a decoder, or None."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    return None


class Mixdown:
    """A mix of audio frames to float32 [C, n] at the rate of the first frame, C = 1 or 2.

    Up to eight channels become mono or stereo with libav's own matrix. More channels, and layouts
    without a matrix, are averaged. Later frames of another rate or layout are converted to those of
    the first. Raises DecodeError for a rate that is not in RATES (a header with 1 Hz makes a day of
    a kilobyte) and for frames that cannot be mixed at all.
    """

    def __init__(self) -> None:
        self.rate = 0
        self._layout = ""
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None  # sample format, layout, rate

    def add(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Yield the blocks [C, n] that one more frame gives."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        frame.pts = None  # gaps in the time stamps are no gaps in the samples
        if form == self._format:
            yield from self._resampled(frame)
            return
        yield from self.rest()
        if not RATES[0] <= frame.sample_rate <= RATES[1]:
            raise DecodeError(f"a sample rate of {frame.sample_rate} Hz")
        channels = frame.layout.nb_channels
        self.rate = self.rate or frame.sample_rate
        self._layout = self._layout or ("stereo" if 2 <= channels <= MOST_NAMED else "mono")
        try:
            if channels > MOST_NAMED:
                raise DecodeError("no matrix for so many channels")
            self._resampler = av.AudioResampler("fltp", self._layout, self.rate)
            blocks = list(self._resampled(frame))
        except DecodeError:  # interleaved: PyAV reads no more than eight planes
            self._resampler = av.AudioResampler("flt", frame.layout.name, self.rate)
            blocks = list(self._resampled(frame))
        self._format = form
        yield from blocks

    def rest(self) -> Iterator[np.ndarray]:
        """Yield the blocks that the resampler still holds."""
        if self._resampler is not None:
            yield from self._resampled(None)
            self._resampler = self._format = None

    def _resampled(self, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        assert self._resampler is not None
        try:
            for done in self._resampler.resample(frame):
                yield self._block(done)
        except av.FFmpegError as error:
            self._resampler = self._format = None
            raise DecodeError(f"sound that cannot be mixed: {error.strerror}") from None

    def _block(self, frame: av.AudioFrame) -> np.ndarray:  # [C, n]
        block = frame.to_ndarray()
        if frame.format.is_planar:
            return block
        mono = block.reshape(-1, frame.layout.nb_channels).mean(axis=1, dtype=np.float32)
        return np.stack([mono] * (1 if self._layout == "mono" else 2))


def decode_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Return the first sound track, not resampled: (float32 [C, n], C = 1 or 2; sample rate).

    Raises as `sound_blocks` does.
    """
    blocks, rate = sound_blocks(path)
    return np.concatenate(list(blocks), axis=1), rate  # [C, n]


def sound_blocks(
    path: str | Path, longest: float = LONGEST_SECONDS
) -> tuple[Iterator[np.ndarray], int]:
    """Yield the same in blocks [C, n] as they are decoded, which bounds the memory of any file.

    Packets that cannot be decoded are left out; raises NoStream or DecodeError if nothing can be,
    and at the latest the blocks raise TooLong after `longest` seconds.
    """
    mix = Mixdown()
    blocks = _sound(path, mix, longest)
    first = next((block for block in blocks if block.shape[1]), None)
    if first is None:
        raise DecodeError(f"{path}: no sound could be decoded")
    return chain([first], blocks), mix.rate


def _sound(path: str | Path, mix: Mixdown, longest: float) -> Iterator[np.ndarray]:
    samples = 0
    with open_media(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise NoStream(f"{path}: no audio stream")
        frames = frames_of(container, stream, av.AudioFrame)
        added = (block for frame in frames for block in mix.add(frame))
        for block in chain(added, mix.rest()):
            samples += block.shape[1]
            if samples > longest * mix.rate:
                raise TooLong(f"{path}: sound of more than {longest:.0f} s")
            yield block


def decode_frames(
    path: str | Path,
    fps: float,
    seconds: float | None = None,
    longest: float = LONGEST_SECONDS,
) -> Iterator[np.ndarray]:
    """Yield pictures on a grid, uint8 [H, W, 3] RGB; picture i is the one shown at i / fps seconds.

    Time counts from the first picture; there is at least one, and none at or after the end of the
    last, nor at or after `seconds`: a clip that was cut without re-encoding keeps some pictures
    beyond its end, so give the planned end - start for it. Frame rates may vary; pictures are as
    a viewer sees them (`clip4vla.media.pictures`). Raises DecodeError if there is no picture, or
    one that cannot be converted, TooLong after `longest` seconds of them; ValueError if fps is not
    above 0.
    """
    if fps <= 0:
        raise ValueError(f"fps is {fps}: use a number above 0")
    limit = math.inf if seconds is None else seconds - 1e-6
    count = 0  # of pictures so far
    shown: av.VideoFrame | None = None
    with open_media(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise NoStream(f"{path}: no video stream")
        stretch = pixel_stretch(stream)
        frames = progressive(frames_of(container, stream, av.VideoFrame))
        for begin, length, frame in timed(frames, stream):
            while shown is not None and count / fps < min(begin - 1e-6, limit):
                yield _converted(shown, stretch)
                count += 1
            shown, end = frame, begin + length
            if begin >= limit:
                break
            if end > longest:
                raise TooLong(f"{path}: pictures of more than {longest:.0f} s")
        if shown is None:
            raise DecodeError(f"{path}: no picture could be decoded")
        while count / fps < min(end - 1e-6, limit) or count == 0:
            yield _converted(shown, stretch)
            count += 1


def _converted(frame: av.VideoFrame, stretch: float) -> np.ndarray:
    try:
        return as_shown(frame, stretch)
    except av.FFmpegError as error:
        raise DecodeError(f"a picture that cannot be converted: {error.strerror}") from None


def frames_of(
    container: InputContainer,
    stream: Stream,
    kind: type[Frame],
    broken: list[str] | None = None,
) -> Iterator[Frame]:
    """Yield the frames of one stream. Errors are skipped and described in `broken`."""
    for packet in packets_of(container, [stream], broken):
        yield from decoded(packet, kind, broken)


def packets_of(
    container: InputContainer, streams: Sequence[Stream], broken: list[str] | None = None
) -> Iterator["av.Packet[Stream]"]:
    """Yield packets of some streams and, at the end or where reading fails, their flush packets.

    A transport stream asks to be read on (EAGAIN) after every 64 kB in which it finds nothing.
    """
    idle = container.size // EMPTY_BYTES  # how often it may ask
    demuxer = container.demux(streams)
    while True:
        try:
            packet = next(demuxer)
        except StopIteration:
            return
        except BlockingIOError:
            idle -= 1
            if idle < 0:
                break
            demuxer = container.demux(streams)
            continue
        except (av.FFmpegError, IndexError) as error:  # IndexError: a stream came up while reading
            _note(broken, f"reading: {getattr(error, 'strerror', None) or error}")
            break
        yield packet
    for stream in streams:
        flush = av.Packet()
        flush.stream = stream
        if stream.time_base is not None:
            flush.time_base = stream.time_base
        yield flush


def decoded(
    packet: "av.Packet[Stream]", kind: type[Frame], broken: list[str] | None = None
) -> list[Frame]:
    """Return the frames that one packet completes; a broken packet completes none."""
    if packet.is_corrupt:
        _note(broken, "a damaged packet")
    try:
        return [frame for frame in packet.decode() if isinstance(frame, kind)]
    except av.FFmpegError as error:
        if not isinstance(error, EOFError):
            _note(broken, f"decoding: {error.strerror}")
        return []


def _note(broken: list[str] | None, error: str) -> None:
    if broken is not None:
        broken.append(error)
