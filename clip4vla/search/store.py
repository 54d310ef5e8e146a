"""The tables of an index: windows with their vectors, and the files they are of (LanceDB)."""

import errno
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.table import Table
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.models.common.batch_features import Features

WINDOWS, FILES = "windows", "files"
SECOND = "second"  # the column of features for second looks
REFRESH = timedelta(seconds=2)  # until a reader sees what another process wrote
OLD = timedelta(hours=1)  # until replaced data are deleted: a reader may still be at them
ROWS = 16  # bits of a row number within one commit
AT_ONCE = 1 << ROWS  # rows of one commit, at most
SCAN_BYTES = 1 << 25  # of vectors that are read at once

# Children of `clip4vla.media.isolated` are forked; they decode, and never come near the tables.
warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)

WINDOW_COLUMNS = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("path", pa.string(), nullable=False),  # relative to the folder
    pa.field("number", pa.int32(), nullable=False),  # of the window in its file
    pa.field("start", pa.float64(), nullable=False),  # seconds from the beginning of the file
    pa.field("end", pa.float64(), nullable=False),
    pa.field("has_picture", pa.bool_(), nullable=False),
    pa.field("has_sound", pa.bool_(), nullable=False),
    pa.field("thumbnail", pa.binary(), nullable=False),  # JPEG
]
FILE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # of `clip4vla.search.changes.State`
        pa.field("sha256", pa.string(), nullable=False),  # "" until it is done
        pa.field("problem", pa.string(), nullable=False),
    ]
)


class Store:
    """The two tables of a folder. Every write is one commit: it happens wholly or not at all.

    create: make a missing table of files. Raises UserError for a missing one that is not to be
    made, or that leaves windows whose files are unknown.
    """

    def __init__(self, folder: Path, create: bool = False):
        self.database = lancedb.connect(folder, read_consistency_interval=REFRESH)
        names = set(self.database.list_tables().tables)
        if FILES not in names and WINDOWS in names:
            raise corrupt(folder, "its table of files is missing")
        if FILES not in names and not create:
            raise empty(folder)
        self.files: Table = (
            self.database.open_table(FILES)
            if FILES in names
            else self.database.create_table(FILES, schema=FILE_SCHEMA)
        )
        self.windows: Table | None = self.database.open_table(WINDOWS) if WINDOWS in names else None

    def check(self) -> None:
        """Open every file of the windows. Raises an error of LanceDB if one is cut or missing."""
        if self.windows is not None:
            for _ in self.windows.search().select(["row"]).to_batches():
                pass

    def add_windows(self, rows: Sequence[dict[str, Any]], features: pa.Table) -> None:
        """Append windows. rows: the columns of WINDOW_COLUMNS but `row`; features: the others."""
        if self.windows is None:
            schema = pa.schema([*WINDOW_COLUMNS, *features.schema])
            self.windows = self.database.create_table(WINDOWS, schema=schema)
        # A version is used once: no number ever stands for another window.
        first = self.windows.version << ROWS
        numbered = [{"row": first + number, **row} for number, row in enumerate(rows)]
        table = pa.Table.from_pylist(numbered, pa.schema(WINDOW_COLUMNS))
        for name in features.column_names:
            table = table.append_column(features.schema.field(name), features[name])
        self.windows.add(table)

    def write_files(self, rows: Sequence[dict[str, Any]]) -> None:
        """Insert files, or replace those of the same paths."""
        if rows:
            table = pa.Table.from_pylist(list(rows), FILE_SCHEMA)
            merge = self.files.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(table)

    def delete_windows(self, paths: list[str]) -> None:
        """Delete the windows of files."""
        for some in in_parts(paths):
            if self.windows is not None:
                self.windows.delete(among("path", some))

    def delete_files(self, paths: list[str]) -> None:
        """Delete files, whose windows are gone already."""
        for some in in_parts(paths):
            self.files.delete(among("path", some))

    def rename_windows(self, old: str, new: str) -> None:
        """Give the windows of a file to its new path."""
        if self.windows is not None:
            self.windows.update(where=among("path", [old]), values={"path": new})

    def next_numbers(self, paths: Iterable[str]) -> dict[str, int]:
        """Return for each of some files that has windows the number after its last one."""
        following: dict[str, int] = {}
        if self.windows is None:
            return following
        for some in in_parts(sorted(paths)):
            query = self.windows.search().where(among("path", some)).select(["path", "number"])
            for row in query.to_arrow().to_pylist():
                following[row["path"]] = max(following.get(row["path"], 0), row["number"] + 1)
        return following

    def tidy(self) -> None:
        """Join small pieces, bring vector indexes up to date, and delete what was replaced."""
        for table in (self.files, self.windows):
            if table is not None:
                table.optimize(cleanup_older_than=OLD)


def empty(folder: Path) -> UserError:
    """Return the error for an index without windows."""
    return UserError(f"{folder}: an empty index. Fix: run `clip4vla index` to its end")


def corrupt(folder: Path, problem: str) -> UserError:
    """Return the error for tables that cannot be read."""
    return UserError(
        f"{folder}: corrupt index: {problem}. Fix: delete this folder and index the clips again"
    )


@contextmanager
def corruption_named(folder: Path) -> Iterator[None]:
    """Raise UserError for the errors of LanceDB, which mean missing or damaged files.

    It passes on errors of the disk as a text: these are OSError, such as of a full one.
    """
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, UserError) or "lance" not in str(error).lower():
            raise
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else 0
        if number not in (0, errno.ENOENT):
            raise OSError(number, os.strerror(number), str(folder)) from None
        problem = " ".join(str(error).split())[:120]
        raise corrupt(folder, problem) from None


def among(column: str, values: Iterable[str | int]) -> str:
    """Return the SQL condition that a column has one of these values."""
    quoted = (
        str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
        for value in values
    )
    return f"{column} IN ({', '.join(quoted)})"


def in_parts(values: list[str], size: int = 500) -> Iterator[list[str]]:
    """Yield values in lists that fit one condition."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def feature_table(features: Features, second: Sequence[bytes] | None) -> pa.Table:
    """Return features [B, D], float32, and [B, Q, D], float16, as columns; zeros are null."""
    columns = {name: _vectors(x) for name, x in features.items()}
    if second is not None:
        columns[SECOND] = pa.array(second, pa.binary())
    return pa.table(columns)


def _vectors(x: Tensor) -> pa.Array:
    """Return float32 vectors, or lists of float16 vectors, as an array; null where all is zero."""
    rows = x.float().numpy()
    absent = ~rows.reshape(len(rows), -1).any(axis=1)
    if rows.ndim == 2:
        flat = pa.array(rows.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(absent))
    count, width = rows.shape[1:]
    flat = pa.array(rows[~absent].astype(np.float16).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, width)
    offsets = np.concatenate([[0], np.cumsum(np.where(absent, 0, count))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), vectors, mask=pa.array(absent))


def tensor_of(column: pa.Array) -> Tensor:
    """Return a column of vectors as float32 [N, D] or [N, Q, D], with zeros for null."""
    kind, values = column.type, column.flatten()  # nulls have no values in it
    count = len(column) - column.null_count
    shape: tuple[int, ...]
    if has_several(kind):
        shape = count, len(values) // max(count, 1), kind.value_type.list_size
        values = values.flatten()
    else:
        shape = count, kind.list_size
    rows = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy()).view(shape).float()
    if count == len(column):
        return rows
    found = torch.zeros(len(column), *(max(size, 1) for size in shape[1:]))
    found[torch.from_numpy(np.asarray(column.is_valid()))] = rows if count else 0
    return found


def has_several(kind: pa.DataType) -> bool:
    """Return whether a column has several vectors for each window."""
    return pa.types.is_list(kind) and not pa.types.is_fixed_size_list(kind)


def is_vectors(kind: pa.DataType) -> bool:
    """Return whether a column has vectors."""
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)


def rows_at_once(schema: pa.Schema, columns: Iterable[str]) -> int:
    """Return how many rows of these vectors are read at once."""
    return max(256, SCAN_BYTES // sum(_floats(schema.field(name).type) for name in columns) // 4)


def _floats(kind: pa.DataType) -> int:
    """Return about how many numbers a value of a column has."""
    sizes = []
    while isinstance(kind, pa.FixedSizeListType | pa.ListType):
        sizes.append(kind.list_size if isinstance(kind, pa.FixedSizeListType) else 32)
        kind = kind.value_type
    return prod(sizes)
