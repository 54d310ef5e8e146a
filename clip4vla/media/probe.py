"""Probing: one decoding pass over a clip's file says what can be seen and heard in it."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from clip4vla.media.decode import (
    DECODER,
    DecodeError,
    Mixdown,
    decoded,
    open_media,
    packets_of,
    picture_stream,
    sound_stream,
    timed,
)
from clip4vla.media.status import AudioStatus, FetchStatus, VideoStatus
from clip4vla.progress import track

NEAR_SILENCE_DBFS = -80.0  # RMS below this is flagged, not silent (facts 10.1)
MIN_SECONDS = 0.1  # a video that ends earlier is a still picture: too_short
MIN_SOUND_SHARE = 0.9  # of the length its own header says; less was cut off on the way


@dataclass
class Probe:
    """What one file holds. 0, "" and NaN stand for what is not there.

    duration: seconds of picture or sound that decode, the longer; width, height: pixels as shown;
    fps: frames per second on average; rms_dbfs, peak_dbfs: of all samples after the mixdown to at
    most two channels, full scale being 1.0 (-inf for digital silence).
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
    decoder: str = DECODER


_DTYPES = {str: "string", float: "float64", int: "int64", bool: "bool"}
PROBE_COLUMNS = {"clip_id": "string"} | {field.name: _DTYPES[field.type] for field in fields(Probe)}


def probe_shard(fetch_rows: pd.DataFrame) -> pd.DataFrame:
    """One row (PROBE_COLUMNS) per fetch row, in order; not_fetched where there is no file."""
    found = []
    for row in track(list(fetch_rows.itertuples()), "probe", total=len(fetch_rows)):
        probe = probe_file(row.path) if row.fetch == FetchStatus.OK else Probe()
        found.append({"clip_id": row.clip_id} | asdict(probe))
    return pd.DataFrame(found, columns=list(PROBE_COLUMNS)).astype(PROBE_COLUMNS)


def probe_file(path) -> Probe:
    """Decode all of a file once. Never raises for what is in the file."""
    probe = Probe(video=VideoStatus.DECODE_ERROR, audio=AudioStatus.DECODE_ERROR)
    try:
        container = open_media(path)
    except DecodeError:
        return probe
    with container:
        picture, sound = picture_stream(container), sound_stream(container)
        probe.video = VideoStatus.NO_VIDEO_STREAM
        probe.audio = AudioStatus.NO_AUDIO_STREAM
        seen, heard = _Seen(), _Heard()
        if picture or sound:
            _decode(container, picture, sound, seen, heard)
        if picture:
            _report_picture(probe, picture, seen)
        if sound:
            _report_sound(probe, sound, heard)
        ends = [seconds for seconds in (seen.end, heard.seconds) if seconds > 0]
        probe.duration = max(ends, default=math.nan)
    return probe


class _Seen:
    """Running facts about the pictures."""

    def __init__(self):
        self.frames, self.end, self.size = 0, 0.0, (0, 0)

    def add(self, begin: float, length: float, frame) -> None:
        self.frames += 1
        self.end = max(self.end, begin + length)
        turned = round(frame.rotation / 90) % 2
        self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)


class _Heard:
    """Running facts about the sound: sums, never all samples at once."""

    def __init__(self):
        self.mix, self.broken = Mixdown(), []
        self.samples, self.values, self.squares, self.peak = 0, 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        return self.samples / self.mix.rate if self.mix.rate else 0.0

    def add(self, block: np.ndarray) -> None:  # [C, n]
        if not np.isfinite(block).all():
            self.broken.append("samples that are no numbers")
            block = np.nan_to_num(block, posinf=0.0, neginf=0.0)
        self.samples += block.shape[1]
        self.values += block.size
        self.squares += float(np.square(block, dtype=np.float64).sum())
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))


def _decode(container, picture, sound, seen: _Seen, heard: _Heard) -> None:
    streams = [stream for stream in (picture, sound) if stream]
    pictures = _Inbox()
    timeline = timed(pictures, picture) if picture else None
    broken_reading: list[str] = []
    for packet in packets_of(container, streams, broken_reading):
        if packet.stream is picture or packet.stream.index == (picture.index if picture else -1):
            for frame in decoded(packet):
                pictures.put(frame)
                seen.add(*next(timeline))
        else:
            for frame in decoded(packet, heard.broken):
                for block in heard.mix.add(frame):
                    heard.add(block)
    for block in heard.mix.rest():
        heard.add(block)
    heard.broken += broken_reading


class _Inbox:
    """Feeds frames one by one to a generator that expects an iterable."""

    def put(self, frame) -> None:
        self.frame = frame

    def __iter__(self):
        while True:
            yield self.frame


def _report_picture(probe: Probe, stream, seen: _Seen) -> None:
    probe.video_codec = stream.codec_context.name
    probe.fps = float(stream.average_rate) if stream.average_rate else math.nan
    probe.width, probe.height = seen.size
    if not seen.frames:
        probe.video = VideoStatus.DECODE_ERROR
    elif seen.end < MIN_SECONDS:
        probe.video = VideoStatus.TOO_SHORT
    else:
        probe.video = VideoStatus.OK


def _report_sound(probe: Probe, stream, heard: _Heard) -> None:
    context = stream.codec_context
    probe.audio_codec = context.name
    probe.sample_rate = heard.mix.rate or context.sample_rate or 0
    probe.channels = context.layout.nb_channels
    declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if heard.samples:
        rms = math.sqrt(heard.squares / heard.values)
        probe.rms_dbfs, probe.peak_dbfs = _dbfs(rms), _dbfs(heard.peak)
        probe.near_silence = probe.rms_dbfs < NEAR_SILENCE_DBFS
    if not heard.samples or heard.broken or heard.seconds < MIN_SOUND_SHARE * declared:
        probe.audio = AudioStatus.DECODE_ERROR
    elif heard.peak == 0.0:
        probe.audio = AudioStatus.DIGITAL_SILENCE
    else:
        probe.audio = AudioStatus.OK


def _dbfs(amplitude: float) -> float:
    return round(20 * math.log10(amplitude), 3) if amplitude > 0 else -math.inf
