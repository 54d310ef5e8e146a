"""Clips and split items as tables, and the checks that need all rows.

Columns, because HowTo100M and AudioSet have millions of clips: a row takes about 250 bytes here and
a kilobyte as Python objects.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where, shown

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
        ("labels", pa.list_(pa.string())),
    ]
)
Fail = Callable[[Where, str], NoReturn]
BLOCK = 1 << 14  # rows held as Python objects before they become columns


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
            SplitItem(row["split"], row["clip_id"], tuple(row["captions"]), tuple(row["labels"]))
            for row in self.item_table.to_pylist()
        ]


class Columns:
    """A growing table, and the place of each of its rows in the files."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._closed: list[list[pa.Array]] = [[] for _ in schema]  # of each column
        self._open: list[tuple] = []
        self._files: list[tuple[int, Path, str]] = []  # its first row, file and unit
        self._number = array("I")

    def __len__(self) -> int:
        return len(self._number)

    def add(self, row: tuple, where: Where) -> None:
        """Add a row that was read at this place."""
        self._open.append(row)
        if not self._files or where[:2] != self._files[-1][1:]:
            self._files.append((len(self), where.file, where.unit))
        self._number.append(where.number)
        if len(self._open) >= BLOCK:
            self._close()

    def where(self, row: int) -> Where:
        """Return the place of a row, by its number in the files' order."""
        found = bisect_right(self._files, row, key=itemgetter(0)) - 1
        return Where(*self._files[found][1:], self._number[row])

    def sorted(self, by: list[str]) -> tuple[pa.Table, np.ndarray]:
        """Return the table in the order of `by`, and each row's number in the files' order.

        The columns here become those of the table one by one: no second table is in memory.
        """
        self._close()
        types = [field.type for field in self.schema]
        columns = [pa.chunked_array(c, t) for c, t in zip(self._closed, types, strict=True)]
        self._closed = []
        release_unused = pa.default_memory_pool().release_unused  # else freed columns stay
        keys = pa.table([columns[self.schema.get_field_index(key)] for key in by], by)
        order = pc.sort_indices(keys, [(key, "ascending") for key in by])
        del keys
        for index, kind in enumerate(types):
            whole = columns[index].combine_chunks()
            columns[index] = pa.chunked_array([], kind)
            release_unused()
            columns[index] = whole.take(order)
            del whole
            release_unused()
        return pa.Table.from_arrays(columns, schema=self.schema), order.to_numpy()

    def _close(self) -> None:
        if self._open:
            columns = zip(*self._open, strict=True)
            for closed, column, field in zip(self._closed, columns, self.schema, strict=True):
                closed.append(pa.array(column, field.type))
            self._open = []
            pa.default_memory_pool().release_unused()


def checked(
    clips: Columns, items: Columns, apart: Sequence[int], protocols: Iterable[Protocol], fail: Fail
) -> tuple[pa.Table, pa.Table]:
    """Return both tables, sorted, after the checks of `Collector.annotations`.

    apart: numbers of the items that may name an unknown clip.
    """
    clip_table, clip_rows = clips.sorted(["clip_id"])
    item_table, item_rows = items.sorted(["split", "clip_id"])
    if repeat := _first_repeat(clip_table, ["clip_id"], clip_rows):
        earlier, later = (clips.where(row) for row in repeat[1:])
        clip_id = clip_table["clip_id"][repeat[0]]
        fail(later, f"clip id {clip_id} occurs twice (first in {earlier})")
    if repeat := _first_repeat(item_table, ["split", "clip_id"], item_rows):
        earlier, later = (items.where(row) for row in repeat[1:])
        split, clip_id = item_table["split"][repeat[0]], item_table["clip_id"][repeat[0]]
        fail(later, f"clip {clip_id} is twice in split {split} (first in {earlier})")
    if apart:
        places = np.flatnonzero(np.isin(item_rows, apart))
        named = item_table["clip_id"].take(pa.array(places))
        unknown = places[~pc.is_in(named, value_set=clip_table["clip_id"]).to_numpy()]
        if len(unknown):
            place = int(unknown[item_rows[unknown].argmin()])
            split, clip_id = item_table["split"][place], item_table["clip_id"][place].as_py()
            where = items.where(int(item_rows[place]))
            fail(where, f"split {split} names the unknown clip {shown(clip_id)}")
    for protocol in protocols:
        _check_disjoint(items, item_table, item_rows, protocol, fail)
    return clip_table, item_table


def _check_disjoint(
    items: Columns, table: pa.Table, rows: np.ndarray, protocol: Protocol, fail: Fail
) -> None:
    """Refuse a clip that is in two splits of one protocol."""
    if len(protocol.splits()) < 2:
        return
    kept = pc.is_in(table["split"], value_set=pa.array(protocol.splits(), pa.string()))
    part, rows = table.filter(kept), rows[kept.to_numpy()]
    order = pc.sort_indices(part["clip_id"]).to_numpy()
    part, rows = part.take(order), rows[order]
    if repeat := _first_repeat(part, ["clip_id"], rows):
        place, earlier, later = repeat
        splits = {int(row): part["split"][int(i)].as_py() for i, row in enumerate(rows)}
        fail(
            items.where(later),
            f"clip {part['clip_id'][place]} is in split {splits[later]} and in split "
            f"{splits[earlier]} ({items.where(earlier)}), which must share no clip",
        )


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
