"""Clips and split items as tables, and the checks that need all rows.

Compressed columns, because HowTo100M and AudioSet have millions of clips: a clip and its item take
about 100 bytes here, 250 in a pyarrow table and kilobytes as Python objects.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

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
_OPTIONS = ipc.IpcWriteOptions(compression="zstd")
Fail = Callable[[Where, str], NoReturn]
BLOCK = 1 << 14  # rows held as Python objects before they become columns
PART = 1 << 20  # rows of a table that are not compressed at a time: a row group of Parquet


class Rows:
    """A sorted table, as parts of `PART` rows that are made when they are read."""

    def __init__(self, columns: list[str], parts: Callable[[list[str]], Iterable[pa.Table]]):
        self.columns = columns
        self._parts = parts  # a function of the columns that are wanted

    def parts(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the parts in order, with these columns or all."""
        for part in self._parts(columns or self.columns):
            yield part
            del part
            pa.default_memory_pool().release_unused()  # else freed columns stay

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Return all rows, with these columns or all."""
        return pa.concat_tables(self.parts(columns))

    def changed(self, change: Callable[[pa.Table], pa.Table]) -> "Rows":
        """Return these rows with a change of each part."""
        return Rows(self.columns, lambda columns: map(change, self._parts(columns)))


@dataclass(frozen=True)
class Annotations:
    """The clips and splits of a dataset's official files.

    `clip_rows` (CLIP_SCHEMA) are sorted by clip_id, `item_rows` (ITEM_SCHEMA) by split and
    clip_id. `notes`: one line for each kind of entry that was left out, and why.
    """

    clip_rows: Rows
    item_rows: Rows
    notes: list[str]

    @property
    def clips(self) -> list[Clip]:
        """Return the clips as objects; for small datasets."""
        return [Clip(**row) for row in self.clip_rows.table().to_pylist()]

    @property
    def splits(self) -> list[SplitItem]:
        """Return the split items as objects; for small datasets."""
        return [
            SplitItem(row["split"], row["clip_id"], tuple(row["captions"]), tuple(row["labels"]))
            for row in self.item_rows.table().to_pylist()
        ]


class Columns:
    """A growing table, and the place of each of its rows in the files."""

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._closed: list[bytes] = []  # blocks
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

    def sorted(self, by: list[str]) -> tuple[Rows, np.ndarray]:
        """Return the table in the order of `by`, and each row's number in the files' order.

        The rows here become those of the table: there are no two copies in memory.
        """
        self._close()
        found = pc.sort_indices(self._table(self._closed, by), [(key, "ascending") for key in by])
        order = found.to_numpy().astype(np.uint32)
        part_of = np.empty(len(order), dtype=np.uint16)
        part_of[order] = np.arange(len(order)) // PART
        parts: list[list[bytes]] = [[] for _ in range(0, max(1, len(order)), PART)]
        for number, block in enumerate(self._closed):
            rows, self._closed[number] = self._table([block], self.schema.names), b""
            its_parts = part_of[number * BLOCK : (number + 1) * BLOCK]
            for part in np.unique(its_parts):
                parts[part].append(_packed(rows.filter(pa.array(its_parts == part))))
        self._closed = []

        def ordered(columns: list[str]) -> Iterator[pa.Table]:
            for number, blocks in enumerate(parts):
                in_files = np.argsort(order[number * PART : (number + 1) * PART])
                place = np.argsort(in_files).astype(np.uint32)
                yield pa.table({c: self._table(blocks, [c]).take(place)[c] for c in columns})

        return Rows(self.schema.names, ordered), order

    def _table(self, blocks: list[bytes], columns: list[str]) -> pa.Table:
        """Return these columns of some blocks."""
        kept = [self.schema.get_field_index(name) for name in columns]
        tables, options = [self.schema.empty_table()], ipc.IpcReadOptions(included_fields=kept)
        for block in blocks:
            with ipc.open_stream(block, options=options) as stream:
                tables.append(stream.read_all())
        return pa.concat_tables([table.select(columns) for table in tables])

    def _close(self) -> None:
        if self._open:
            columns = zip(*self._open, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self.schema, strict=True)]
            self._closed.append(_packed(pa.table(arrays, self.schema)))
            self._open = []
            pa.default_memory_pool().release_unused()


def _packed(rows: pa.Table) -> bytes:
    """Return a block: compressed rows."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, rows.schema, options=_OPTIONS) as stream:
        stream.write_table(rows.combine_chunks())
    return sink.getvalue().to_pybytes()  # without room to grow


def checked(
    clips: Columns, items: Columns, apart: Sequence[int], protocols: Iterable[Protocol], fail: Fail
) -> tuple[Rows, Rows]:
    """Return both tables, sorted, after the checks of `Collector.annotations`.

    apart: numbers of the items that may name an unknown clip.
    """
    clip_rows, clip_order = clips.sorted(["clip_id"])
    clip_keys = clip_rows.table(["clip_id"])
    if repeat := _first_repeat(clip_keys, clip_order):
        earlier, later = (clips.where(row) for row in repeat[1:])
        clip_id = clip_keys["clip_id"][repeat[0]]
        fail(later, f"clip id {clip_id} occurs twice (first in {earlier})")
    if not apart:
        del clip_keys
    item_rows, item_order = items.sorted(["split", "clip_id"])
    keys = item_rows.table(["split", "clip_id"])
    if repeat := _first_repeat(keys, item_order):
        earlier, later = (items.where(row) for row in repeat[1:])
        split, clip_id = keys["split"][repeat[0]], keys["clip_id"][repeat[0]]
        fail(later, f"clip {clip_id} is twice in split {split} (first in {earlier})")
    if apart:
        places = np.flatnonzero(np.isin(item_order, apart))
        named = keys["clip_id"].take(pa.array(places))
        unknown = places[~pc.is_in(named, value_set=clip_keys["clip_id"]).to_numpy()]
        if len(unknown):
            place = int(unknown[item_order[unknown].argmin()])
            split, clip_id = keys["split"][place], keys["clip_id"][place].as_py()
            where = items.where(int(item_order[place]))
            fail(where, f"split {split} names the unknown clip {shown(clip_id)}")
    for protocol in protocols:
        _check_disjoint(items, keys, item_order, protocol, fail)
    return clip_rows, item_rows


def _check_disjoint(
    items: Columns, keys: pa.Table, rows: np.ndarray, protocol: Protocol, fail: Fail
) -> None:
    """Refuse a clip that is in two splits of one protocol."""
    if len(protocol.splits()) < 2:
        return
    kept = pc.is_in(keys["split"], value_set=pa.array(protocol.splits(), pa.string()))
    part, rows = keys.filter(kept), rows[kept.to_numpy()]
    order = pc.sort_indices(part["clip_id"]).to_numpy()
    part, rows = part.take(order), rows[order]
    if repeat := _first_repeat(part.select(["clip_id"]), rows):
        place, earlier, later = repeat
        splits = {int(row): part["split"][int(i)].as_py() for i, row in enumerate(rows)}
        fail(
            items.where(later),
            f"clip {part['clip_id'][place]} is in split {splits[later]} and in split "
            f"{splits[earlier]} ({items.where(earlier)}), which must share no clip",
        )


def _first_repeat(keys: pa.Table, rows: np.ndarray) -> tuple[int, int, int] | None:
    """Return (place in the sorted table, earlier row, later row) of the first repeated key.

    `rows` are the rows' numbers in the order of the files; first means: the earliest second row.
    """
    same = np.ones(max(len(keys) - 1, 0), dtype=bool)
    for column in keys.columns:
        same &= pc.equal(column.slice(1), column.slice(0, max(len(keys) - 1, 0))).to_numpy()
    again = np.flatnonzero(same) + 1
    if not len(again):
        return None
    pairs = np.sort(np.stack([rows[again - 1], rows[again]], axis=1), axis=1)
    best = int(np.argmin(pairs[:, 1]))
    return int(again[best]), int(pairs[best, 0]), int(pairs[best, 1])
