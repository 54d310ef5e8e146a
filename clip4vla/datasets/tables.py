"""Clips and split items as tables, and the checks that need all rows.

Columns, because HowTo100M and AudioSet have millions of clips: a row takes about 250 bytes here and
a kilobyte as Python objects.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
BLOCK = 1 << 16  # rows held as Python objects before they become columns


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
        self._blocks: list[pa.RecordBatch] = []
        self._open: list[tuple] = []
        self._places: dict[tuple[Path, str], int] = {}
        self._place, self._number = array("H"), array("q")

    def __len__(self) -> int:
        return len(self._number)

    def add(self, row: tuple, where: Where) -> None:
        """Add a row that was read at this place."""
        self._open.append(row)
        self._place.append(self._places.setdefault(where[:2], len(self._places)))
        self._number.append(where.number)
        if len(self._open) >= BLOCK:
            self._close()

    def where(self, row: int) -> Where:
        """Return the place of a row, by its number in the files' order."""
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


def checked(
    clips: Columns, items: Columns, protocols: Iterable[Protocol], fail: Fail
) -> tuple[pa.Table, pa.Table]:
    """Return both tables, sorted, after the checks of `Collector.annotations`."""
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
    known = pc.is_in(item_table["clip_id"], value_set=clip_table["clip_id"]).to_numpy()
    if not known.all():
        row = int(item_rows[~known].min())
        place = int(np.flatnonzero(item_rows == row)[0])
        split, clip_id = item_table["split"][place], item_table["clip_id"][place].as_py()
        fail(items.where(row), f"split {split} names the unknown clip {shown(clip_id)}")
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
