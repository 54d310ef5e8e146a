"""Decoding with PyAV: the whole sound at its own rate, and the pictures on a regular grid.

Files come from anywhere, so only media containers are opened (never playlists or scripts that name
other files or addresses), whatever the suffix says, and only regular files.
"""

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,ogg,asf,wav,w64,aiff,mp3,aac,"
    "flac,amr,au,caf,mxf,rm,h264,hevc,dv,gif,ivf,nut,m4v,vob,mpegvideo,ac3,eac3"
)
DECODER = f"pyav {av.__version__}, libavcodec " + ".".join(
    str(part) for part in av.library_versions["libavcodec"]
)


class DecodeError(RuntimeError):
    """A file, or the stream that was asked for, cannot be decoded."""


def open_media(path: str | Path) -> av.container.InputContainer:
    """Open a media file by its content. Raises DecodeError if it is none or no regular file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DecodeError(f"{path}: not a regular file")
    try:
        return av.open(
            f"file:{path}",
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def picture_stream(container) -> av.video.stream.VideoStream | None:
    """The first video stream that moves: cover pictures of sound files do not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            stream.thread_type = "AUTO"
            return stream
    return None


def sound_stream(container) -> av.audio.stream.AudioStream | None:
    """The first audio stream that a decoder exists for."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    return None


class Mixdown:
    """Decoded audio frames -> float32 [C, n] at the rate of the first frame, C = 1 or 2.

    More than two channels become stereo with libav's own matrix. A change of rate or layout inside
    a file is converted to what the first frame had.
    """

    def __init__(self):
        self.rate = 0
        self._layout = ""
        self._resampler = None
        self._format = None

    def add(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Blocks [C, n] that one more frame gives."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._format:
            yield from self.rest()
            self.rate = self.rate or frame.sample_rate
            self._layout = self._layout or ("mono" if frame.layout.nb_channels == 1 else "stereo")
            self._resampler = av.AudioResampler("fltp", self._layout, self.rate)
            self._format = form
        frame.pts = None  # gaps in the time stamps are no gaps in the samples
        for block in self._resampler.resample(frame):
            yield block.to_ndarray()

    def rest(self) -> Iterator[np.ndarray]:
        """What the resampler still holds."""
        if self._resampler is not None:
            for block in self._resampler.resample(None):
                yield block.to_ndarray()
            self._resampler = None


def decode_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """The first sound track: (float32 [C, n] with C = 1 or 2, samples per second, not resampled).

    Packets that cannot be decoded are left out; raises DecodeError if nothing can be.
    """
    mix, blocks = Mixdown(), []
    with open_media(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise DecodeError(f"{path}: no audio stream")
        for frame in frames_of(container, stream):
            blocks.extend(mix.add(frame))
        blocks.extend(mix.rest())
    if not any(block.shape[1] for block in blocks):
        raise DecodeError(f"{path}: no sound could be decoded")
    return np.concatenate(blocks, axis=1), mix.rate  # [C, n]


def decode_frames(
    path: str | Path, fps: float, seconds: float | None = None
) -> Iterator[np.ndarray]:
    """Pictures on a grid: uint8 [H, W, 3] RGB, picture i being the one shown at i / fps seconds.

    Time counts from the first picture; there is at least one, and none at or after the end of the
    last, nor at or after `seconds`: a clip that was cut without re-encoding keeps some pictures
    beyond its end, so give the planned end - start for it. Variable frame rates and the rotation
    that phones write are honoured. Raises DecodeError if there is no picture.
    """
    if fps <= 0:
        raise ValueError(f"fps is {fps}: use a number above 0")
    limit = math.inf if seconds is None else seconds - 1e-6
    given, shown = 0, None
    with open_media(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise DecodeError(f"{path}: no video stream")
        for begin, length, frame in timed(frames_of(container, stream), stream):
            while shown is not None and given / fps < min(begin - 1e-6, limit):
                yield as_shown(shown)
                given += 1
            shown, end = frame, begin + length
            if begin >= limit:
                break
        if shown is None:
            raise DecodeError(f"{path}: no picture could be decoded")
        while given / fps < min(end - 1e-6, limit) or given == 0:
            yield as_shown(shown)
            given += 1


def timed(frames, stream) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """(begin, length, frame) of pictures, in seconds from the first; begin never goes back."""
    rate = stream.average_rate or stream.guessed_rate
    usual = 1.0 / float(rate) if rate else 0.04
    first, until = None, 0.0
    for frame in frames:
        at = until if frame.time is None else frame.time - (first if first is not None else 0.0)
        if first is None:
            first = frame.time or 0.0
            at = 0.0
        at = max(at, 0.0)
        length = float(frame.duration * frame.time_base) if frame.duration else usual
        yield at, length, frame
        until = at + length


def as_shown(frame: av.VideoFrame) -> np.ndarray:
    """RGB pixels uint8 [H, W, 3], turned as the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90) % 4))


def frames_of(container, stream, broken: list[str] | None = None) -> Iterator:
    """Frames of one stream. What cannot be read or decoded is skipped and noted in `broken`."""
    for packet in packets_of(container, [stream], broken):
        yield from decoded(packet, broken)


def packets_of(container, streams, broken: list[str] | None = None) -> Iterator:
    """Packets of some streams and, at the end or where reading fails, their flush packets."""
    demuxer = container.demux(streams)
    while True:
        try:
            packet = next(demuxer)
        except StopIteration:
            return
        except av.FFmpegError as error:
            _note(broken, f"reading: {error.strerror}")
            break
        yield packet
    for stream in streams:
        flush = av.Packet()
        flush.stream = stream
        yield flush


def decoded(packet, broken: list[str] | None = None) -> list:
    """Frames that one packet completes; a broken packet completes none and is noted."""
    if packet.is_corrupt:
        _note(broken, "a damaged packet")
    try:
        return packet.decode()
    except av.FFmpegError as error:
        if not isinstance(error, EOFError):
            _note(broken, f"decoding: {error.strerror}")
        return []


def _note(broken: list[str] | None, what: str) -> None:
    if broken is not None:
        broken.append(what)
