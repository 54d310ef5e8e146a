"""An index at work: its windows, its vectors and its checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import torch

from clip4vla.common.errors import UserError
from clip4vla.search.approximate import vector_columns
from clip4vla.search.blocks import Block
from clip4vla.search.changes import Stamp
from clip4vla.search.description import Description
from clip4vla.search.embedder import Embedder
from clip4vla.search.encoder import Encoder
from clip4vla.search.files import check_utf8
from clip4vla.search.opening import open_checkpoint
from clip4vla.search.store import Store, among, corruption_named, empty, rows_at_once, tensor_of

SHOWN = ["row", "path", "start", "end", "has_picture", "has_sound", "thumbnail"]


@dataclass(frozen=True)
class Window:
    """A part of a file. Times are seconds from the beginning of the file."""

    row: int  # its number, which never stands for another window
    path: str  # relative to the folder of the clips
    start: float
    end: float
    has_picture: bool
    has_sound: bool
    thumbnail: bytes  # JPEG


class Index:
    """The index in a folder, and the checkpoint that made it.

    Raises UserError for a folder that is no index, for an empty or corrupt one, and for a
    checkpoint that is missing or another one than made the index.
    """

    def __init__(
        self,
        folder: str | Path,
        checkpoint: str | None = None,
        device: str | torch.device | None = None,
    ):
        self.folder = Path(folder)
        check_utf8(self.folder)
        self.about = Description.read(self.folder)
        with corruption_named(self.folder):
            self.store = Store(self.folder)
            if self.store.windows is None or not self.store.windows.count_rows():
                raise empty(self.folder)
        self.table = self.store.windows
        opened = open_checkpoint(checkpoint or self.about.checkpoint, device)
        if opened.sha256 != self.about.sha256:
            raise UserError(
                f"{self.folder}: made with another checkpoint than {opened.source} (sha256 "
                f"{self.about.sha256[:12]}..., not {opened.sha256[:12]}...). Fix: give that one "
                "with --checkpoint, or index the clips again with --out"
            )
        self.encoder = Encoder(opened.embedder, self.about.nonverbal_shares)

    @property
    def media(self) -> Path:
        """Return the folder of the clips."""
        return Path(self.about.folder)

    @property
    def embedder(self) -> Embedder:
        """Return the checkpoint of the index."""
        return self.encoder.embedder

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.table.count_rows()

    @property
    def compared_on(self) -> torch.device:
        """Return the device on which windows are compared with a query."""
        return self.encoder.ranker.scored_on(self.embedder.device)

    @cached_property
    def vectors(self) -> list[str]:
        """Return the names of the columns of vectors."""
        return vector_columns(self.table)

    def windows(self, rows: Sequence[int]) -> list[Window]:
        """Return windows by their numbers, in this order; those that are gone are left out."""
        if not rows:
            return []
        query = self.table.search().where(among("row", [int(row) for row in rows])).select(SHOWN)
        found = {item["row"]: Window(**item) for item in query.limit(len(rows)).to_list()}
        return [found[row] for row in map(int, rows) if row in found]

    def spread(self, count: int) -> list[Window]:
        """Return `count` windows, or all if there are fewer, from all over the index."""
        total = len(self)
        places = [total * i // count for i in range(count)] if total > count else range(total)
        return [
            Window(**item) for item in self.table.take_offsets(list(places)).select(SHOWN).to_list()
        ]

    @property
    def files(self) -> int:
        """Return the number of files that have windows."""
        return self.store.files.count_rows("state != 'broken'")

    def stamp_of(self, window: Window) -> Stamp:
        """Return the size and time of a window's file when it was indexed."""
        query = self.store.files.search().where(among("path", [window.path]))
        for item in query.select(["size", "mtime_ns"]).limit(1).to_list():
            return Stamp(item["size"], item["mtime_ns"])
        raise UserError(f"{window.path}: no longer in the index. Fix: search again")

    def file_of(self, window: Window) -> Path:
        """Return the file of a window. UserError if it is gone, or leads out of the folder."""
        path = self.media / window.path
        inside = path.resolve().is_relative_to(self.media.resolve())
        if not inside or not path.is_file():
            raise UserError(
                f"{window.path}: no longer in {self.media}. Fix: run `clip4vla index` again"
            )
        return path

    def blocks(self, where: str | None = None) -> Iterator[Block]:
        """Yield all windows, or those of a condition, with their vectors; memory is bounded."""
        query = self.table.search().select(self._compared)
        if where is not None:
            query = query.where(where)
        size = rows_at_once(self.table.schema, self.vectors)
        for batch in query.to_batches(size):
            yield self._block(batch)

    def taken(self, numbers: list[int]) -> Iterator[Block]:
        """Yield windows by LanceDB's own numbers of rows."""
        size = rows_at_once(self.table.schema, self.vectors)
        for start in range(0, len(numbers), size):
            query = self.table.take_row_ids(numbers[start : start + size])
            for batch in query.select(self._compared).to_arrow().to_batches():
                yield self._block(batch)

    @property
    def _compared(self) -> list[str]:
        return ["row", "has_picture", "has_sound", *self.vectors]

    def _block(self, batch: pa.RecordBatch) -> Block:
        return Block(
            rows=batch["row"].to_numpy(),
            has_picture=_flags(batch["has_picture"]),
            has_sound=_flags(batch["has_sound"]),
            features={name: tensor_of(batch[name]).to(self.compared_on) for name in self.vectors},
        )


def _flags(column: pa.Array) -> torch.Tensor:
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).astype(bool))
