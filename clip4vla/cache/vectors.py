"""A disk cache of computed vectors: blocks of rows, read through memory maps.

A table has its rows in the order of its names. Any number of processes build it at once; each takes
the first block that no other has. Blocks of a killed process are taken over by the others.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.common.files import (
    canonical_json,
    sha256_of,
    sha256_of_file,
    whole_file,
    write_json,
    write_text,
)
from clip4vla.common.log import log

BLOCK = 4096  # rows of a file; a kill loses at most one block
KEY_DIGITS = 16
NOTE = ".sha256"  # suffix of the hash beside a block

Compute = Callable[[list[str]], Tensor]


class Vectors:
    """A table of float32 rows [N, D] by name, in a folder named by the hash of its meaning."""

    def __init__(self, parent: Path, names: list[str], meaning: dict, block: int = BLOCK):
        """Name the folder; `names` are unique, `meaning` is everything that decides the vectors."""
        self.names, self.block = names, block
        self._row_of = {name: row for row, name in enumerate(names)}
        meaning = meaning | {"names": sha256_of(canonical_json(names)), "block": block}
        self.folder = parent / sha256_of(canonical_json(meaning))[:KEY_DIGITS]
        self._meaning = meaning
        self._maps: list[np.ndarray] | None = None

    def __getstate__(self) -> dict:
        """Leave out the memory maps: another process maps the files again."""
        return vars(self) | {"_maps": None}

    def __getitem__(self, name: str) -> Tensor:
        """Return the vector [D] of one name. Raises UserError for corrupt files."""
        block, row = divmod(self._row_of[name], self.block)
        return torch.from_numpy(self._blocks()[block][row].copy())

    def build(self, compute: Compute) -> None:
        """Compute every missing block; return when all exist.

        compute: names to float32 [n, D]. Waits for blocks that another process computes, and takes
        them over if it dies.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "about.json", self._meaning)
        with open(self.folder / ".lock", "a+b") as locks:
            self._build_missing(compute, locks, wait=False)
            if not all(path.is_file() for path in self._paths()):
                log.info(f"{self.folder}: waiting for the blocks of other processes")
                self._build_missing(compute, locks, wait=True)
        for path in self._paths():
            self._check(path)

    def _check(self, path: Path) -> None:
        """Raise UserError for a block that has changed; blocks of older versions have no hash."""
        note = path.with_suffix(NOTE)
        if note.is_file() and note.read_text(errors="replace").strip() != sha256_of_file(path):
            raise UserError(
                f"{path}: changed since it was computed (its sha256 is not that of {note.name}). "
                f"Fix: delete {self.folder}; it is computed again"
            )

    def _build_missing(self, compute: Compute, locks: BinaryIO, wait: bool) -> None:
        for number, path in enumerate(self._paths()):
            if path.is_file():
                continue
            with _claimed(locks, number, wait) as claimed:
                if claimed and not path.is_file():
                    self._write(path, compute(self._names_of(number)))

    def _paths(self) -> list[Path]:
        count = -(-len(self.names) // self.block)
        return [self.folder / f"{number:06d}.npy" for number in range(count)]

    def _names_of(self, number: int) -> list[str]:
        return self.names[number * self.block : (number + 1) * self.block]

    def _write(self, path: Path, vectors: Tensor) -> None:
        with whole_file(path) as temporary, open(temporary, "wb") as stream:
            np.save(stream, vectors.float().numpy(), allow_pickle=False)
            stream.flush()
            # Written before the block gets its name, so that every block has its hash.
            write_text(path.with_suffix(NOTE), sha256_of_file(temporary) + "\n")

    def _blocks(self) -> list[np.ndarray]:
        if self._maps is None:
            self._maps = [self._mapped(number, path) for number, path in enumerate(self._paths())]
        return self._maps

    def _mapped(self, number: int, path: Path) -> np.ndarray:
        try:
            block = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            block = np.empty(0)
        rows = len(self._names_of(number))
        if block.dtype != np.float32 or block.ndim != 2 or len(block) != rows:
            raise UserError(f"{path}: corrupt or truncated vectors. Fix: delete {self.folder}")
        return block


@contextlib.contextmanager
def _claimed(locks: BinaryIO, number: int, wait: bool) -> Iterator[bool]:
    """Yield whether this process now has block `number`. The kernel frees those of dead ones."""
    flags = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.lockf(locks, flags, 1, number, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, number, os.SEEK_SET)
