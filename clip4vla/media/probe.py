"""Probe clips: one decoding pass over a file measures its pictures and sound."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import av
import numpy as np
import pandas as pd
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.media.decode import (
    DECODER,
    LONGEST_SECONDS,
    LOUDEST,
    DecodeError,
    Mixdown,
    decoded,
    open_media,
    packets_of,
    picture_stream,
    sound_stream,
)
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.media.pictures import as_shown, credible_rate, pixel_stretch, shown_size, timed
from clip4vla.media.status import AudioStatus, FetchStatus, VideoStatus

SILENT_PEAK = 2.0**-16  # half a step of 16 bits: the official wav file has only zeros (facts 10.1)
NEAR_SILENCE_DBFS = -80.0  # RMS below this is flagged, not silent (facts 10.1)
MIN_SECONDS = 0.1  # a video that ends earlier is a still picture: too_short
MIN_SOUND_SHARE = 0.9  # of its packets and of the length in its header: less is an error
SAY_LENGTHS = ("mov", "wav", "w64", "aiff", "flac")  # of each stream; else libav guesses
IN_ORDER = ("mpegts", "mpeg", "ogg")  # containers with nothing behind the last packet of a stream
LEFT_SHARE, LEFT_BYTES = 0.1, 1 << 16  # of a file: so much without a packet is reported


@dataclass
class ProbeResult:
    """The measured content of one file; missing values are 0, "" or NaN.

    duration: seconds of picture or sound that decode, the longer; width, height: pixels as shown;
    fps: frames per second on average; interlaced: whether some frame is (decoding deinterlaces it);
    rms_dbfs, peak_dbfs: of all samples after the mixdown to at most two channels, full scale being
    1.0 (-inf for digital silence); damaged: packets that could not be read or decoded; left_out:
    the parts of the file that are not used, and implausible claims of its header.
    """

    video: str = VideoStatus.NOT_FETCHED
    audio: str = AudioStatus.NOT_FETCHED
    duration: float = math.nan
    width: int = 0
    height: int = 0
    fps: float = math.nan
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    rms_dbfs: float = math.nan
    peak_dbfs: float = math.nan
    near_silence: bool = False
    interlaced: bool = False
    damaged: int = 0
    left_out: str = ""
    decoder: str = DECODER


_DTYPES: dict[object, str] = {str: "string", float: "float64", int: "int64", bool: "bool"}
PROBE_COLUMNS = {"clip_id": "string"} | {
    field.name: _DTYPES[field.type] for field in fields(ProbeResult)
}


def probe_shard(fetch_rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row (PROBE_COLUMNS) per fetch row, in order; not_fetched where there is no file.

    A file on which the decoder crashes, hangs or raises any exception is a decode_error.
    """
    rows = []
    with Isolated(_probed) as isolated_probe:
        for row in track(list(fetch_rows.itertuples()), "probe", total=len(fetch_rows)):
            probe = ProbeResult()
            if row.fetch == FetchStatus.OK:
                try:
                    probe = isolated_probe(row.path, patience(row.path))
                except Crashed as crash:
                    probe = _unusable(str(crash))
                if probe.left_out:
                    log.info(f"{row.path}: not used: {probe.left_out}")
            rows.append({"clip_id": row.clip_id} | asdict(probe))
    return pd.DataFrame(rows, columns=list(PROBE_COLUMNS)).astype(PROBE_COLUMNS)


def _probed(path: str) -> ProbeResult:
    try:
        return probe_file(path)
    except Exception as error:  # any error concerns one file only
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return _unusable(" ".join(reason.split())[:200])


def _unusable(reason: str) -> ProbeResult:
    return ProbeResult(
        VideoStatus.DECODE_ERROR, AudioStatus.DECODE_ERROR, left_out=f"everything: {reason}"
    )


def probe_file(path: str | Path) -> ProbeResult:
    """Decode all of a file once, up to LONGEST_SECONDS. Never raises for the file's content."""
    probe = ProbeResult(video=VideoStatus.DECODE_ERROR, audio=AudioStatus.DECODE_ERROR)
    try:
        container = open_media(path)
    except DecodeError:
        return probe
    with container:
        picture, sound = picture_stream(container), sound_stream(container)
        probe.video = VideoStatus.NO_VIDEO_STREAM
        probe.audio = AudioStatus.NO_AUDIO_STREAM
        picture_facts, sound_facts = _PictureFacts(picture), _SoundFacts()
        if picture or sound:
            ends = {stream.index: 0 for stream in container.streams}
            broken = _decode(
                container,
                picture=picture,
                sound=sound,
                picture_facts=picture_facts,
                sound_facts=sound_facts,
                ends=ends,
            )
            stops = [f"what follows an error of {error}" for error in broken if "reading" in error]
            probe.left_out = "; ".join([*stops, *_left_out(container, picture, sound, ends)])
            probe.damaged = len(broken)
        if sound:
            _report_sound(probe, sound, sound_facts)
        if picture:
            _report_picture(probe, picture, picture_facts, sound_facts)
        seconds = [seconds for seconds in (picture_facts.end, sound_facts.seconds) if seconds > 0]
        probe.duration = max(seconds, default=math.nan)
    return probe


class _PictureFacts:
    """Running facts about the pictures."""

    def __init__(self, stream: VideoStream | None):
        self.stretch = pixel_stretch(stream) if stream else 1.0
        self.frames, self.end, self.size, self.interlaced = 0, 0.0, (0, 0), False
        self.convertible = True

    @property
    def too_long(self) -> bool:
        return self.end > LONGEST_SECONDS

    def add(self, begin: float, length: float, frame: av.VideoFrame) -> None:
        if not self.frames:
            try:
                as_shown(frame, self.stretch)
            except av.FFmpegError:
                self.convertible = False
        self.frames += 1
        self.end = max(self.end, begin + length)
        self.size = shown_size(frame, self.stretch)
        self.interlaced |= frame.interlaced_frame


class _SoundFacts:
    """Running facts about the sound: sums, never all samples at once."""

    def __init__(self) -> None:
        self.mix, self.packets, self.invalid = Mixdown(), 0, False
        self.broken: list[str] = []
        self.samples, self.values, self.squares, self.peak = 0, 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        return self.samples / self.mix.rate if self.mix.rate else 0.0

    @property
    def too_long(self) -> bool:
        return self.seconds > LONGEST_SECONDS

    def add(self, packet: "av.Packet[Stream]") -> None:
        self.packets += 1
        for frame in decoded(packet, av.AudioFrame, self.broken):
            self._count(self.mix.add(frame))

    def finish(self) -> None:
        self._count(self.mix.rest())

    def _count(self, blocks: Iterable[np.ndarray]) -> None:
        try:
            for block in blocks:
                self._measure(block)
        except DecodeError:  # a rate or layout that cannot be
            self.invalid = True

    def _measure(self, block: np.ndarray) -> None:  # [C, n]
        if not np.isfinite(block).all():
            self.invalid = True
            block = np.nan_to_num(block, posinf=0.0, neginf=0.0)
        self.samples += block.shape[1]
        self.values += block.size
        self.squares += float(np.square(block, dtype=np.float64).sum())
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        self.invalid |= self.peak > LOUDEST  # the front-end would refuse it


def _decode(
    container: InputContainer,
    *,
    picture: VideoStream | None,
    sound: AudioStream | None,
    picture_facts: _PictureFacts,
    sound_facts: _SoundFacts,
    ends: dict[int, int],
) -> list[str]:
    """Measure pictures and sound, each until it is too long; return the errors of packets.

    Sets in `ends` where in the file the last packet of each stream ends.
    """
    pictures = _Inbox()
    timeline = timed(pictures, picture) if picture else None
    broken: list[str] = []
    for packet in packets_of(container, list(container.streams), broken):
        index = packet.stream.index
        ends[index] = max(ends[index], (packet.pos or 0) + packet.size)
        if picture and timeline and index == picture.index and not picture_facts.too_long:
            for frame in decoded(packet, av.VideoFrame, broken):
                pictures.put(frame)
                begin, length, _ = next(timeline)
                picture_facts.add(begin, length, frame)
        elif sound and index == sound.index and not sound_facts.too_long:
            sound_facts.add(packet)
        if (not picture or picture_facts.too_long) and (not sound or sound_facts.too_long):
            break
    sound_facts.finish()
    return broken + sound_facts.broken


def _left_out(
    container: InputContainer,
    picture: VideoStream | None,
    sound: AudioStream | None,
    ends: dict[int, int],
) -> Iterator[str]:
    """Yield the parts of a file that are not used and the implausible claims of its header."""
    if picture and not credible_rate(picture):
        rate = float(picture.average_rate or picture.guessed_rate or 0)
        yield f"a frame rate of {rate:g} in its header"
    size, last = container.size, max(ends.values())
    if not last or size <= 0:  # libav gives no positions of packets
        return
    parts = {"everything": last}
    if container.format.name in IN_ORDER:
        parts = {"the pictures": ends[picture.index]} if picture else {}
        parts |= {"the sound": ends[sound.index]} if sound else {}
    for name, end in parts.items():
        if size - end > max(LEFT_SHARE * size, LEFT_BYTES):
            yield f"{name} in the last {1 - end / size:.0%} of the file"


class _Inbox:
    """Feeds frames one by one to a generator that expects an iterable."""

    def put(self, frame: av.VideoFrame) -> None:
        self.frame = frame

    def __iter__(self) -> Iterator[av.VideoFrame]:
        while True:
            yield self.frame


def _report_picture(
    probe: ProbeResult, stream: VideoStream, picture_facts: _PictureFacts, sound_facts: _SoundFacts
) -> None:
    probe.video_codec = stream.codec_context.name
    probe.fps = _frame_rate(stream, picture_facts)
    probe.width, probe.height = picture_facts.size
    probe.interlaced = picture_facts.interlaced
    if not picture_facts.frames or not picture_facts.convertible:
        probe.video = VideoStatus.DECODE_ERROR
    elif picture_facts.too_long:
        probe.video = VideoStatus.TOO_LONG
    elif picture_facts.end < MIN_SECONDS or (picture_facts.frames == 1 and not sound_facts.samples):
        probe.video = VideoStatus.TOO_SHORT
    else:
        probe.video = VideoStatus.OK


def _frame_rate(stream: VideoStream, picture_facts: _PictureFacts) -> float:
    """Return the header's frame rate, or that of the pictures where the two differ widely."""
    counted = picture_facts.frames / picture_facts.end if picture_facts.end else math.nan
    claimed = float(stream.average_rate) if stream.average_rate else math.nan
    return round(counted, 3) if not counted / 2 <= claimed <= counted * 2 else claimed


def _report_sound(probe: ProbeResult, stream: AudioStream, sound_facts: _SoundFacts) -> None:
    context = stream.codec_context
    probe.audio_codec = context.name
    probe.sample_rate = sound_facts.mix.rate or context.sample_rate or 0
    probe.channels = context.layout.nb_channels
    declared = 0.0
    container = stream.container.format.name.split(",")[0]
    if container in SAY_LENGTHS and stream.duration and stream.time_base:
        declared = float(stream.duration * stream.time_base)
    if declared > LONGEST_SECONDS:  # implausible: reading stops at an hour of sound
        declared = 0.0
    if sound_facts.samples:
        rms = math.sqrt(sound_facts.squares / sound_facts.values)
        probe.rms_dbfs, probe.peak_dbfs = _dbfs(rms), _dbfs(sound_facts.peak)
        probe.near_silence = probe.rms_dbfs < NEAR_SILENCE_DBFS
    lost = sound_facts.seconds < MIN_SOUND_SHARE * declared
    lost |= len(sound_facts.broken) > (1 - MIN_SOUND_SHARE) * sound_facts.packets
    if not sound_facts.samples or sound_facts.invalid or lost:
        probe.audio = AudioStatus.DECODE_ERROR
    elif sound_facts.too_long:
        probe.audio = AudioStatus.TOO_LONG
    elif sound_facts.peak < SILENT_PEAK:
        probe.audio = AudioStatus.DIGITAL_SILENCE
    else:
        probe.audio = AudioStatus.OK


def _dbfs(amplitude: float) -> float:
    return round(20 * math.log10(amplitude), 3) if amplitude > 0 else -math.inf
