"""What a dataset version is, and how its clips are cached."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from clip4vla.config.base import Section, runtime

AudioPolicy = Literal["filter", "substitute", "zeros", "random", "none"]


class LogMel(Section):
    """The audio front-end: waveform -> log-mel in dB, [C, T, n_mels] (facts D2; paper, Audio)."""

    sample_rate: int = Field(16000, gt=0, description="Hz after resampling")
    n_fft: int = Field(512, gt=0, description="samples of a window: 32 ms at 16 kHz")
    hop: int = Field(128, gt=0, description="samples between windows: 8 ms at 16 kHz")
    n_mels: int = Field(224, gt=0, description="mel bands: the width of a segment")
    f_min: float = Field(0.0, ge=0, description="Hz")
    f_max: float = Field(8000.0, gt=0, description="Hz")
    window: Literal["hann", "hamming"] = Field(
        "hann", description="the released code uses hann, the paper says hamming (D2)"
    )
    top_db: float = Field(80.0, gt=0, description="floor below the clip's own maximum, dB")


class Frames(Section):
    """Video frames in the cache: JPEG, on a regular grid."""

    fps: float = Field(1.0, gt=0, description="frames per second kept; frame i shows i / fps s")
    short_side: int = Field(224, gt=0, description="pixels")
    jpeg_quality: int = Field(90, ge=50, le=100, description="of Pillow's encoder")


class Cache(Section):
    """Everything that decides the bytes of the shards."""

    log_mel: LogMel = LogMel()
    frames: Frames = Frames()


class Rate(Section):
    """How gently a server is asked: all of it is here, and slow on purpose."""

    slots: int = runtime(
        2, ge=1, le=64, description="downloads at once from one server, over all jobs and runs"
    )
    request_pause: float = runtime(1.0, ge=0, description="youtube: seconds between requests")
    clip_pause: float = runtime(
        2.0, ge=0, description="youtube: seconds between clips, at random up to 2.5 times as many"
    )
    clip_seconds: float = runtime(1800.0, gt=0, description="a clip that takes longer is given up")
    bytes_per_second: int | None = runtime(None, gt=0, description="most that one download takes")
    retry_hours: float = runtime(
        12.0, ge=0, description="before a clip that was refused may be asked for again"
    )


class Dataset(Section):
    """One dataset: where its annotations and media are, how it is split into shards."""

    reader: str = Field(description="module of clip4vla.datasets that reads its official files")
    version: str = Field("v1", pattern=r"^[A-Za-z0-9_]{1,20}$", description="your own name for it")
    shards: int = Field(1, ge=1, le=4096, description="jobs per data stage")
    fetch_pass: int = Field(
        1, ge=1, description="raise it to ask again for what was refused, in a new dataset version"
    )
    expected: dict[str, int] = runtime(
        {}, description="clips per split in the official lists; the coverage table compares"
    )
    enabled: bool = runtime(True, description="false: rows that need it stand as 'not run'")
    annotations: Path = runtime(description="folder with the official annotation files")
    source: Literal["local", "http", "youtube"] = runtime(
        "local", description="where media come from; all but local go through yt-dlp"
    )
    media: Path | None = runtime(None, description="source local: folder with the media files")
    url: str | None = runtime(
        None, description="source http: address with {file} or {source_id} in it"
    )
    cookies: Path | None = runtime(None, description="source youtube: a cookies.txt of your own")
    rate: Rate = runtime(Rate(), description="how gently the source is asked; not for local")
    min_coverage: float = runtime(
        0.5, ge=0, le=1, description="least share of planned clips that must be usable"
    )
