"""Collect a reader's clips and split items in columns, and refuse invalid ones by file and line.

Columns, because HowTo100M and AudioSet have millions of clips: a row takes about 250 bytes here and
a kilobyte as Python objects.
"""

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NoReturn, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip4vla.common.errors import UserError
from clip4vla.datasets.clip import Clip, Protocol, Sound, SplitItem, Where, shown

CLIP_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
SPLIT = re.compile(r"[A-Za-z0-9_]{1,50}")
SOURCE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
SOUNDS = get_args(Sound)
CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("file", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("sound", pa.string()),
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("clip_id", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("label", pa.string()),
    ]
)
CORRECT = "correct this row, or take the official file as published"
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_-]{1,100}\.[a-z0-9]{1,5}")
_BLOCK = 1 << 16  # rows held as Python objects before they become columns
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


@dataclass(frozen=True)
class Annotations:
    """The clips and splits of a dataset's official files.

    `clip_table` (CLIP_SCHEMA) is sorted by clip_id, `item_table` (ITEM_SCHEMA) by split and
    clip_id. `notes`: one line for each kind of entry that was left out, and why.
    """

    clip_table: pa.Table
    item_table: pa.Table
    notes: list[str]

    @property
    def clips(self) -> list[Clip]:
        """Return the clips as objects; for small datasets."""
        return [Clip(**row) for row in self.clip_table.to_pylist()]

    @property
    def splits(self) -> list[SplitItem]:
        """Return the split items as objects; for small datasets."""
        return [
            SplitItem(row["split"], row["clip_id"], tuple(row["captions"]), row["label"])
            for row in self.item_table.to_pylist()
        ]


@dataclass
class Collector:
    """A collector of clips and split items, one by one. All methods raise UserError with one line.

    `name` is the dataset's name in the config, `folder` holds its annotation files.
    """

    name: str
    folder: Path
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clips, self._items = _Columns(CLIP_SCHEMA), _Columns(ITEM_SCHEMA)

    def fail(self, where: Where | Path, problem: str, fix: str = CORRECT) -> NoReturn:
        """Raise the UserError for an invalid row."""
        raise UserError(f"{self.name}: {where}: {problem}. Fix: {fix}")

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
            self.fail(where, f"invalid file {shown(clip.file)}", "use a relative path without '..'")
        self._check_times(clip, where)
        if clip.sound not in SOUNDS:
            self.fail(
                where, f"invalid sound {shown(clip.sound)}", "use verbal, nonverbal or unknown"
            )
        row = (clip.clip_id, clip.source_id, clip.file, clip.start, clip.end, clip.sound)
        self._clips.add(row, where)

    def item(self, item: SplitItem, where: Where) -> None:
        """Add a split item; captions must be texts that are not blank."""
        if not SPLIT.fullmatch(item.split):
            self.fail(where, f"invalid split name {shown(item.split)}", "use letters, digits and _")
        if not item.captions:
            self.fail(where, f"clip {shown(item.clip_id)} has no caption")
        for caption in item.captions:
            if not isinstance(caption, str) or not caption.strip() or not _is_text(caption):
                self.fail(where, f"invalid caption {shown(caption)}", "use a text, not blank")
        if not _is_text(item.label):
            self.fail(where, f"invalid label {shown(item.label)}")
        if not CLIP_ID.fullmatch(item.clip_id):
            self.fail(where, f"split {item.split} names the unknown clip {shown(item.clip_id)}")
        self._items.add((item.split, item.clip_id, item.captions, item.label), where)

    def annotations(self, protocols: Iterable[Protocol] = ()) -> Annotations:
        """Return all clips and items, sorted, after the checks that need all of them.

        Clip ids must be unique, a clip at most once in a split, split items must name known clips,
        and the splits of a protocol must share no clip.
        """
        clips, clip_rows = self._clips.sorted(["clip_id"])
        items, item_rows = self._items.sorted(["split", "clip_id"])
        if not len(clips):
            raise UserError(
                f"{self.name}: {self.folder}: no clip in the annotation files. "
                "Fix: check their contents"
            )
        if repeat := _first_repeat(clips, ["clip_id"], clip_rows):
            earlier, later = (self._clips.where(row) for row in repeat[1:])
            clip_id = clips["clip_id"][repeat[0]]
            self.fail(later, f"clip id {clip_id} occurs twice (first in {earlier})")
        if repeat := _first_repeat(items, ["split", "clip_id"], item_rows):
            earlier, later = (self._items.where(row) for row in repeat[1:])
            split, clip_id = items["split"][repeat[0]], items["clip_id"][repeat[0]]
            self.fail(later, f"clip {clip_id} is twice in split {split} (first in {earlier})")
        known = pc.is_in(items["clip_id"], value_set=clips["clip_id"]).to_numpy()
        if not known.all():
            row = int(item_rows[~known].min())
            place = int(np.flatnonzero(item_rows == row)[0])
            split, clip_id = items["split"][place], items["clip_id"][place].as_py()
            self.fail(
                self._items.where(row), f"split {split} names the unknown clip {shown(clip_id)}"
            )
        for protocol in protocols:
            self._check_disjoint(items, item_rows, protocol)
        return Annotations(clips, items, self.notes)

    def _check_disjoint(self, items: pa.Table, rows: np.ndarray, protocol: Protocol) -> None:
        """Refuse a clip that is in two splits of one protocol."""
        if len(protocol.splits()) < 2:
            return
        kept = pc.is_in(items["split"], value_set=pa.array(protocol.splits(), pa.string()))
        part, rows = items.filter(kept), rows[kept.to_numpy()]
        order = pc.sort_indices(part["clip_id"]).to_numpy()
        part, rows = part.take(order), rows[order]
        if repeat := _first_repeat(part, ["clip_id"], rows):
            place, earlier, later = repeat
            splits = {int(row): part["split"][int(i)].as_py() for i, row in enumerate(rows)}
            self.fail(
                self._items.where(later),
                f"clip {part['clip_id'][place]} is in split {splits[later]} and in split "
                f"{splits[earlier]} ({self._items.where(earlier)}), which must share no clip",
            )

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


class _Columns:
    """A growing table, and the place of each of its rows in the files."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._blocks: list[pa.RecordBatch] = []
        self._open: list[tuple] = []
        self._places: dict[tuple[Path, str], int] = {}
        self._place, self._number = array("H"), array("q")

    def add(self, row: tuple, where: Where) -> None:
        self._open.append(row)
        self._place.append(self._places.setdefault(where[:2], len(self._places)))
        self._number.append(where.number)
        if len(self._open) >= _BLOCK:
            self._close()

    def where(self, row: int) -> Where:
        file, unit = list(self._places)[self._place[row]]
        return Where(file, unit, self._number[row])

    def sorted(self, by: list[str]) -> tuple[pa.Table, np.ndarray]:
        """Return the table in the order of `by`, and each row's number in the files' order."""
        self._close()
        table = pa.Table.from_batches(self._blocks, self.schema)
        self._blocks = []
        order = pc.sort_indices(table, [(key, "ascending") for key in by])
        return table.take(order).combine_chunks(), order.to_numpy()

    def _close(self) -> None:
        if self._open:
            columns = zip(*self._open, strict=True)
            types = (field.type for field in self.schema)
            arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
            self._blocks.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self._open = []


def _first_repeat(table: pa.Table, by: list[str], rows: np.ndarray) -> tuple[int, int, int] | None:
    """Return (place in the sorted table, earlier row, later row) of the first repeated key.

    `rows` are the rows' numbers in the order of the files; first means: the earliest second row.
    """
    same = np.ones(max(len(table) - 1, 0), dtype=bool)
    for key in by:
        column = table[key]
        same &= pc.equal(column.slice(1), column.slice(0, max(len(table) - 1, 0))).to_numpy()
    again = np.flatnonzero(same) + 1
    if not len(again):
        return None
    pairs = np.sort(np.stack([rows[again - 1], rows[again]], axis=1), axis=1)
    best = int(np.argmin(pairs[:, 1]))
    return int(again[best]), int(pairs[best, 0]), int(pairs[best, 1])


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
