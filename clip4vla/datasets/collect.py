"""Collect a reader's clips and split items, and refuse invalid ones by file and line.

The tables behind a collector are imported late: a plan reads only the constants of readers.
"""

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn, get_args

from clip4vla.common.errors import UserError
from clip4vla.datasets.clip import Clip, Protocol, Sound, SplitItem, Where, shown

if TYPE_CHECKING:
    from clip4vla.datasets.tables import Annotations

CLIP_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
SPLIT = re.compile(r"[A-Za-z0-9_]{1,50}")
SOURCE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
SOUNDS = get_args(Sound)
CORRECT = "correct this row, or take the official file as published"
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_-]{1,100}\.[a-z0-9]{1,5}")
_PLAN_AGAIN = "Fix: run `clip4vla data plan` again"


def check_names(clip_ids: Iterable[str], source_ids: Iterable[str], files: Iterable[str]) -> None:
    """Refuse names that could lead out of their folder or tar, whoever wrote the plan.

    The readers check them too; this is for the jobs that make paths of them. Raises UserError for
    the first such name.
    """
    for clip_id in clip_ids:
        if not isinstance(clip_id, str) or not CLIP_ID.fullmatch(clip_id):
            raise UserError(f"{shown(clip_id)}: invalid clip id. {_PLAN_AGAIN}")
    for source_id in source_ids:
        if not isinstance(source_id, str) or not SOURCE_ID.fullmatch(source_id):
            raise UserError(f"{shown(source_id)}: invalid source id. {_PLAN_AGAIN}")
    for file in files:
        if not isinstance(file, str) or not _is_inside(file):
            raise UserError(f"{shown(file)}: leads out of the media folder. {_PLAN_AGAIN}")


@dataclass
class Collector:
    """A collector of clips and split items, one by one. All methods raise UserError with one line.

    `name` is the dataset's name in the config, `folder` holds its annotation files (or is the one
    file). `correct` is the fix of a row that has no better one.
    """

    name: str
    folder: Path
    notes: list[str] = field(default_factory=list)
    correct: str = CORRECT

    def __post_init__(self) -> None:
        from clip4vla.datasets.tables import CLIP_SCHEMA, ITEM_SCHEMA, Columns

        self.clips, self.items = Columns(CLIP_SCHEMA), Columns(ITEM_SCHEMA)
        self._newest: str | None = None  # clip id
        self._apart = array("q")  # rows of items that do not follow their clip at once

    def fail(self, where: Where | Path, problem: str, fix: str | None = None) -> NoReturn:
        """Raise the UserError for an invalid row."""
        raise UserError(f"{self.name}: {where}: {problem}. Fix: {fix or self.correct}")

    def note(self, note: str) -> None:
        """Keep a line about entries that were left out; it is printed when a dataset is planned."""
        self.notes.append(f"{self.name}: {note}")

    def clip(self, clip: Clip, where: Where) -> None:
        """Add a clip; ids must be well formed, times ordered, the file a relative path."""
        if not CLIP_ID.fullmatch(clip.clip_id):
            self.fail(
                where,
                f"invalid clip id {shown(clip.clip_id)}",
                "use 1 to 100 letters, digits, _ and -, not beginning with -",
            )
        if not SOURCE_ID.fullmatch(clip.source_id):
            self.fail(
                where, f"invalid source id {shown(clip.source_id)}", "use letters, digits, _ and -"
            )
        if not _PLAIN_FILE.fullmatch(clip.file) and not _is_inside(clip.file):
            self.fail(
                where,
                f"invalid file {shown(clip.file)}",
                "use a relative path, with / and without '..'",
            )
        start, end = clip.start, clip.end
        if start is None or end is None or not 0 <= start < end < math.inf:
            self._check_times(clip, where)
        if clip.sound not in SOUNDS:
            self.fail(
                where, f"invalid sound {shown(clip.sound)}", "use verbal, nonverbal or unknown"
            )
        row = (clip.clip_id, clip.source_id, clip.file, start, end, clip.sound)
        self.clips.add(row, where)
        self._newest = clip.clip_id

    def item(self, item: SplitItem, where: Where) -> None:
        """Add a split item; captions and labels must be texts that are not blank."""
        if not SPLIT.fullmatch(item.split):
            self.fail(where, f"invalid split name {shown(item.split)}", "use letters, digits and _")
        if not item.captions:
            self.fail(where, f"clip {shown(item.clip_id)} has no caption")
        for caption in item.captions:
            if not isinstance(caption, str) or not caption.strip() or not _is_text(caption):
                self.fail(where, f"invalid caption {shown(caption)}", "use a text, not blank")
        for label in item.labels:
            if not label.strip() or not _is_text(label):
                self.fail(where, f"invalid label {shown(label)}", "use a text, not blank")
        if len(set(item.labels)) < len(item.labels):
            self.fail(where, f"clip {shown(item.clip_id)} has a label twice: {shown(item.labels)}")
        if item.clip_id != self._newest:
            if not CLIP_ID.fullmatch(item.clip_id):
                self.fail(where, f"split {item.split} names the unknown clip {shown(item.clip_id)}")
            self._apart.append(len(self.items))
        self.items.add((item.split, item.clip_id, item.captions, item.labels), where)

    def annotations(self, protocols: Iterable[Protocol] = ()) -> "Annotations":
        """Return all clips and items, sorted, after the checks that need all of them.

        Clip ids must be unique, a clip at most once in a split, split items must name known clips,
        and the splits of a protocol must share no clip.
        """
        from clip4vla.datasets.tables import Annotations, checked

        if not len(self.clips):
            self.fail(self.folder, "no clip in the annotation files", "check their contents")
        clips, items = checked(self.clips, self.items, self._apart, protocols, self.fail)
        return Annotations(clips, items, self.notes)

    def _check_times(self, clip: Clip, where: Where) -> None:
        start, end = clip.start, clip.end
        if start is None and end is None:
            return
        if start is None or end is None:
            self.fail(where, f"clip {clip.clip_id} needs both start and end, or neither")
        for name, seconds in (("start", start), ("end", end)):
            if not math.isfinite(seconds) or seconds < 0:
                self.fail(where, f"invalid {name} {seconds}", "use seconds, 0 or more")
        if end <= start:
            self.fail(where, f"end {end} must be after start {start}")


def _is_text(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
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
        and len(file.encode()) <= 255
    )
