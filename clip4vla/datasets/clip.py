"""Clips, the items of splits, protocols, and places in annotation files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Sound = Literal["verbal", "nonverbal", "unknown"]


class Where(NamedTuple):
    """A place in an annotation file; as text `path, line 3` or `path, member 3 ('abc')`."""

    file: Path
    unit: str  # line, entry, member
    number: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True, slots=True)
class Clip:
    """One media unit: a whole file, or the seconds [start, end) of a longer source.

    `clip_id` names it everywhere (and its member in tar files, hence no dots); `source_id` names
    its source (a YouTube id where there is one); `file` is its path in the user's media folder.
    `start` and `end` are seconds, or None for the whole file. `sound` chooses the audio type token
    (paper, Audio Encoder; facts 6.1): verbal, nonverbal or unknown.
    """

    clip_id: str
    source_id: str
    file: str
    start: float | None = None
    end: float | None = None
    sound: Sound = "unknown"


@dataclass(frozen=True, slots=True)
class SplitItem:
    """A clip in a split, with at least one caption and its labels, () for none."""

    split: str
    clip_id: str
    captions: tuple[str, ...]
    labels: tuple[str, ...] = ()


class Protocol(NamedTuple):
    """Splits that are used together and therefore share no clip."""

    train: str
    val: str | None = None
    test: str | None = None

    def splits(self) -> list[str]:
        """Return the names of the splits that this protocol has."""
        return [split for split in self if split is not None]


class Benchmark(NamedTuple):
    """The field's way to score a split: the name of the protocol, captions per clip, and clips.

    captions: None if clips have different numbers of them, or labels instead. clips: number in the
    official list; None for a split that the field does not score.
    """

    name: str
    captions: int | None = None
    clips: int | None = None


def shown(value: object) -> str:
    """Return a short, one-line form of any value for an error message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
