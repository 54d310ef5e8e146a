"""Compare the length of a clip's file with its annotation: whole videos, and truncated files.

Mirrors of datasets contain files with a clip's name and the whole video in them, and incomplete
downloads. They decode, so only their length reveals them.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import pandas as pd

from clip4vla.media.decode import DecodeError, open_media
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.media.planned import TimeRange

TOLERANCE, LEAST_SECONDS = 0.2, 1.0  # of the annotated length, and never less than a second


class Length(StrEnum):
    """Result of comparing the probed duration of a clip with the annotated one."""

    OK = "ok"
    LONGER = "longer_than_annotated"
    SHORTER = "shorter_than_annotated"
    UNKNOWN = "unknown"  # nothing decodes, or the annotations have no times


FLAGS = (Length.LONGER, Length.SHORTER)


class ComparedRow(Protocol):
    """The columns of a ledger row that tell its length from the annotated one."""

    length: str
    duration: float
    annotated_start: float
    annotated_end: float


def slack(annotated: float) -> float:
    """Return the seconds by which a file may differ from its annotated length."""
    return max(LEAST_SECONDS, TOLERANCE * annotated)


def lengths(rows: pd.DataFrame) -> pd.Series:
    """Return a Length for every row of a ledger, complete or not."""
    annotated = rows["annotated_end"] - rows["annotated_start"]
    beyond = rows["duration"] - annotated
    allowed = (TOLERANCE * annotated).clip(lower=LEAST_SECONDS)
    compared = pd.Series(Length.OK, index=rows.index, dtype="string")
    compared[beyond > allowed] = Length.LONGER
    compared[beyond < -allowed] = Length.SHORTER
    compared[beyond.isna()] = Length.UNKNOWN
    return compared


def with_cuts(rows: pd.DataFrame, media: Path) -> pd.DataFrame:
    """Return the rows of a dataset with `cut_longer`, with times for those cut from a whole video.

    The cache ends the pictures of a cut clip where the clip ends.
    """
    own = [str(media / file) for file in rows["file"]]
    cut = (rows["fetch"] == "ok") & rows["start"].isna() & (rows["path"] != own)
    return rows.assign(
        start=rows["start"].mask(cut, rows["annotated_start"]),
        end=rows["end"].mask(cut, rows["annotated_end"]),
    )


def is_whole_video(path: Path, clip: TimeRange) -> bool:
    """Return whether a file under a clip's name is longer than the clip and reaches to its end.

    The header decides; the cut is compared with the annotation again when it is probed.
    """
    with Isolated(_header_seconds) as isolated:
        try:
            seconds = isolated(path, patience(path))
        except (Crashed, DecodeError):
            return False
    allowed = slack(clip.length)
    return seconds > clip.length + allowed and seconds >= clip.end - allowed


def _header_seconds(path: Path) -> float:
    with open_media(path) as container:
        return (container.duration or 0) / 1_000_000


def described(row: ComparedRow) -> Iterator[str]:
    """Yield a description of a file that is longer or shorter than annotated; else nothing."""
    if row.length in FLAGS:
        annotated = row.annotated_end - row.annotated_start
        yield f"{row.duration:.1f} s where {annotated:.1f} s are annotated"
