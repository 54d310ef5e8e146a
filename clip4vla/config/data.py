"""Config sections of datasets, and of how their clips are cached."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from clip4vla.config.base import Section, added, refuse_unread, runtime

AudioPolicy = Literal["filter", "substitute", "zeros", "random", "none", "released_links"]
IMAGE_SIZE = 224  # rows and columns of what towers read: a frame, or a segment of a log-mel

Neighbours = Literal["vision", "text"]
# Policies that give a silent clip a donor's audio -> space in which donors are neighbours.
DONORS_BY: dict[str, Neighbours] = {
    "substitute": "vision",
    "random": "vision",
    "released_links": "text",
}


def reads_test_captions(policy: str) -> bool:
    """Return whether a policy chooses the audio of a silent test clip by its caption, the query."""
    return DONORS_BY.get(policy) == "text"


def policy_text(policy: str) -> str:
    """Return a policy as tables and pages show it, with a warning if it reads the queries."""
    return f"{policy} (reads the test captions)" if reads_test_captions(policy) else policy


class LogMel(Section):
    """The audio front-end: waveform -> log-mel, [C, T, n_mels] (facts D2, D3; paper, Audio)."""

    kind: Literal["mel", "fbank"] = Field(
        "mel",
        description="mel: librosa's, in dB (released); fbank: kaldi's, natural log (paper; D2)",
        json_schema_extra={"neutral": "mel"},
    )
    channels: Literal["left_mean_right", "mean"] = Field(
        "left_mean_right",
        description="of stereo audio: all three (released), or only the mean, read as three equal "
        "channels in a third of the space (D3); mono audio always has one channel",
        json_schema_extra={"neutral": "left_mean_right"},
    )
    sample_rate: int = Field(16000, gt=0, description="Hz after resampling")
    n_fft: int = Field(512, ge=2, description="samples of a window: 32 ms at 16 kHz")
    hop: int = Field(128, gt=0, description="samples between windows: 8 ms at 16 kHz")
    n_mels: int = Field(IMAGE_SIZE, gt=0, description="mel bands: the width of a segment")
    f_min: float = Field(0.0, ge=0, description="Hz")
    f_max: float = Field(8000.0, gt=0, description="Hz")
    window: Literal["hann", "hamming"] = Field(
        "hann", description="hann in the released code, hamming in the paper (D2)"
    )
    top_db: float = Field(80.0, gt=0, description="mel: floor below the clip's own maximum, dB")
    preemphasis: float = Field(
        0.97,
        ge=0,
        le=1,
        description="fbank: each sample less this share of the one before it; 0: none",
        json_schema_extra={"neutral": 0.97},
    )
    remove_dc: bool = Field(
        True,
        description="fbank: each window less its own mean",
        json_schema_extra={"neutral": True},
    )

    @property
    def steps_per_second(self) -> float:
        """Return the frames of a spectrogram in a second."""
        return self.sample_rate / self.hop

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.f_min >= self.f_max:
            raise ValueError(
                f"f_min {self.f_min:g} is not below f_max {self.f_max:g}. Fix: lower f_min"
            )
        if self.f_max > self.sample_rate / 2:
            raise ValueError("f_max is above half the sample rate. Fix: lower it")
        refuse_unread(self, "kind", KIND_READS)
        return self


KIND_READS = {"mel": ("top_db",), "fbank": ("preemphasis", "remove_dc")}


class Frames(Section):
    """Video frames in the cache: JPEG, on a regular grid."""

    fps: float = Field(1.0, gt=0, description="frames per second kept; frame i shows i / fps s")
    short_side: int = Field(IMAGE_SIZE, gt=0, description="pixels")
    jpeg_quality: int = Field(90, ge=50, le=100, description="of Pillow's encoder")


class Cache(Section):
    """Settings that decide the bytes of the shards."""

    log_mel: LogMel = LogMel()
    frames: Frames = Frames()
    waveform: bool = added(
        False,
        "also keep the sound at log_mel.sample_rate, int16, and take the log-mel from it: needed "
        "to mix the sounds of clips (`finetune.augment.mixup`)",
    )


def _or_clips_alone(schema: dict[str, Any]) -> None:
    """Allow `train: 9000`, short for `train: {clips: 9000}`, in the JSON schema."""
    section = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "integer", "minimum": 0}, section]


class Expected(Section):
    """Official number of clips of a split; a plain number is short for `clips`."""

    model_config = ConfigDict(json_schema_extra=_or_clips_alone)

    clips: int = Field(ge=0, description="in the official list")
    with_sound: int | None = Field(
        None, ge=0, description="clips that the paper found not silent (facts 14.7)"
    )
    tolerance: float = Field(
        0.02, ge=0, le=1, description="share that may be missing without a warning"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"clips": value} if is_number else value


class Rate(Section):
    """Download rate limits, which are low on purpose."""

    slots: int = runtime(
        2, ge=1, le=64, description="downloads at once from one server, over all jobs and runs"
    )
    request_pause: float = runtime(1.0, ge=0, description="youtube: seconds between requests")
    clip_pause: float = runtime(
        2.0, ge=0, description="youtube: seconds between clips, at random up to 2.5 times as many"
    )
    clip_seconds: float = runtime(1800.0, gt=0, description="time limit of one clip")
    clip_bytes: int = runtime(
        2_000_000_000,
        gt=0,
        description="size limit of one file, so that the disk does not fill up",
    )
    bytes_per_second: int | None = runtime(
        None, gt=0, description="speed limit of one download; whole files only, not cut clips"
    )
    retry_hours: float = runtime(
        12.0, ge=0, description="before a refused clip may be requested again"
    )


class Shares(Section):
    """Shares by which clips of a user's own table are dealt to splits, where it has no splits."""

    train: float = Field(0.8, ge=0, le=1, description="of the sources; 0: no such split")
    val: float = Field(0.1, ge=0, le=1, description="of the sources; 0: no such split")
    test: float = Field(0.1, ge=0, le=1, description="of the sources; 0: no such split")
    seed: int = Field(0, description="of the draw (docs/own_clips.md)")

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"train {self.train:g}, val {self.val:g} and test {self.test:g} sum to {total:g}. "
                "Fix: let them sum to 1"
            )
        return self


OWN_READER = "csv"


class Dataset(Section):
    """One dataset: its annotations and media, and its shards."""

    reader: str = Field(
        description="module of clip4vla.datasets that reads its official files; csv: a table of "
        "your own clips (docs/own_clips.md)"
    )
    version: str = Field("v1", pattern=r"^[A-Za-z0-9_]{1,20}$", description="your own name for it")
    shards: int = Field(1, ge=1, le=4096, description="jobs per data stage")
    fetch_pass: int = Field(
        1, ge=1, description="raise it to retry refused downloads, in a new dataset version"
    )
    clips_per_video: int = Field(
        4,
        ge=1,
        le=1000,
        description="howto100m: captions drawn per video, each grown into a clip",
        json_schema_extra={"neutral": 4},
    )
    clip_seed: int = Field(
        0, description="howto100m: seed of that draw", json_schema_extra={"neutral": 0}
    )
    cut_longer: bool = Field(
        False,
        description="source local: cut files that are longer than annotated and reach the clip's "
        "end, since they are whole videos under clip names (docs/data.md)",
        json_schema_extra={"neutral": False},
    )
    splits: Shares = added(
        Shares(), "csv: shares of the splits, if the table has no column `split`"
    )
    expected: dict[str, Expected] = runtime(
        {},
        description="per split: clips in the official list, or {clips, with_sound, tolerance}; "
        "the coverage table compares",
    )
    held_out: list[str] = runtime(
        [],
        description="splits whose videos pre-training leaves out (`pretrain.leaks: drop`); a "
        "change makes new pre-training runs, and all runs that start from them",
    )
    enabled: bool = runtime(
        True,
        description="false: rows that need it are marked 'not run', and its `held_out` is ignored, "
        "which makes new pre-training runs, and all runs that start from them",
    )
    annotations: Path = runtime(
        description="folder with the official annotation files; csv: your table, a .csv, .tsv, "
        ".jsonl or .parquet file"
    )
    source: Literal["local", "http", "youtube"] = runtime(
        "local", description="source of the media; http and youtube use yt-dlp"
    )
    media: Path | None = runtime(None, description="source local: folder with the media files")
    url: str | None = runtime(
        None, description="source http: address with {file} or {source_id} in it"
    )
    cookies: Path | None = runtime(None, description="source youtube: a cookies.txt of your own")
    rate: Rate = runtime(Rate(), description="download rate limits; not for local")
    min_coverage: float = runtime(
        0.5, ge=0, le=1, description="smallest share of planned clips that must be usable"
    )
    max_longer: float = runtime(
        0.1,
        ge=0,
        le=1,
        description="largest share of usable clips that may be longer than annotated (whole videos "
        "under clip names); 1: no limit",
    )

    @model_validator(mode="after")
    def _cuts_what_is_here(self) -> Self:
        if self.cut_longer and self.source != "local":
            raise ValueError("cut_longer cuts local files only. Fix: set source: local")
        refuse_unread(self, "reader", {OWN_READER: ("splits",)})
        return self

    @property
    def gives_files(self) -> bool:
        """Return whether the source gives files of the media folder, not original uploads."""
        by_file = self.source == "http" and "{file}" in (self.url or "")
        return self.source == "local" or by_file

    def expected_clips(self, split: str) -> int | None:
        """Return the clips of a split in the official list; None if the config has no number."""
        return self.expected[split].clips if split in self.expected else None
