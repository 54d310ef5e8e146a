"""Clips, the items of splits, and the checks that every annotation reader shares."""

import math
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from clip4vla.errors import UserError

CLIP_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
SPLIT = re.compile(r"[A-Za-z0-9_]{1,50}")
SOURCE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

Sound = Literal["verbal", "nonverbal", "unknown"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One media unit: a whole file, or the seconds [start, end) of a longer source.

    `clip_id` names it everywhere (and its member in tar files, hence no dots); `source_id` names
    what it is cut from (a YouTube id where there is one); `file` is its path in the user's media
    folder. `start` and `end` are seconds, or None for the whole. `sound` chooses the type token
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
    """A clip in a split, with its captions there (at least one) and its label ("" for none)."""

    split: str
    clip_id: str
    captions: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Annotations:
    """What the official files of a dataset say: clips and who is in which split."""

    clips: list[Clip]
    splits: list[SplitItem]


@dataclass
class Collector:
    """Gathers clips and split items and refuses what is wrong, naming file and line.

    `name` is the dataset's name in the config; every `where` is "file, line n" or the like.
    All methods raise UserError with one line.
    """

    name: str
    _clips: dict[str, tuple[Clip, str]] = field(default_factory=dict)
    _items: dict[tuple[str, str], tuple[SplitItem, str]] = field(default_factory=dict)

    def fail(self, where: str, what: str) -> None:
        """Raise the UserError for a wrong row."""
        raise UserError(f"{self.name}: {where}: {what}")

    def clip(self, clip: Clip, where: str) -> None:
        """Add a clip; ids must be well formed and new, times ordered, the file a relative path."""
        if not CLIP_ID.fullmatch(clip.clip_id):
            self.fail(
                where,
                f"{shown(clip.clip_id)} is no clip id: use 1 to 100 letters, digits, _ and -, "
                "not beginning with -",
            )
        if not SOURCE_ID.fullmatch(clip.source_id):
            self.fail(where, f"{shown(clip.source_id)} is no source id: use letters, digits, _, -")
        if not _is_inside(clip.file):
            self.fail(where, f"{shown(clip.file)} must be a relative path without '..'")
        self._check_times(clip, where)
        if clip.sound not in ("verbal", "nonverbal", "unknown"):
            self.fail(where, f"sound is {shown(clip.sound)}: use verbal, nonverbal or unknown")
        if clip.clip_id in self._clips:
            first = self._clips[clip.clip_id][1]
            self.fail(where, f"clip id {clip.clip_id} occurs twice (first in {first})")
        self._clips[clip.clip_id] = (clip, where)

    def item(self, item: SplitItem, where: str) -> None:
        """Add a split item; captions must be texts that are not blank."""
        if not SPLIT.fullmatch(item.split):
            self.fail(where, f"{shown(item.split)} is no split name: use letters, digits and _")
        if not item.captions:
            self.fail(where, f"clip {shown(item.clip_id)} has no caption")
        for caption in item.captions:
            if not isinstance(caption, str) or not caption.strip() or not _is_utf8(caption):
                self.fail(where, f"{shown(caption)} is no caption: a text that is not blank")
        key = (item.split, item.clip_id)
        if key in self._items:
            first = self._items[key][1]
            self.fail(
                where, f"clip {item.clip_id} is twice in split {item.split} (first in {first})"
            )
        self._items[key] = (item, where)

    def annotations(self) -> Annotations:
        """Everything gathered, after checking that split items name known clips."""
        for item, where in self._items.values():
            if item.clip_id not in self._clips:
                self.fail(where, f"split {item.split} names the unknown clip {shown(item.clip_id)}")
        if not self._clips:
            raise UserError(f"{self.name}: the annotation files hold no clip: check their contents")
        return Annotations(
            [clip for clip, _ in self._clips.values()], [item for item, _ in self._items.values()]
        )

    def _check_times(self, clip: Clip, where: str) -> None:
        if (clip.start is None) != (clip.end is None):
            self.fail(where, f"clip {clip.clip_id} needs both start and end, or neither")
        if clip.start is None:
            return
        for what, seconds in (("start", clip.start), ("end", clip.end)):
            if not math.isfinite(seconds) or seconds < 0:
                self.fail(where, f"{what} is {seconds}: use seconds, 0 or more")
        if clip.end <= clip.start:
            self.fail(where, f"end {clip.end} must be after start {clip.start}")


def shown(value: object) -> str:
    """A short, one-line form of any value for an error message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return (
        bool(file.strip())
        and file.isprintable()
        and not path.is_absolute()
        and ".." not in path.parts
        and path.name not in ("", ".")
        and len(file) <= 255
    )
