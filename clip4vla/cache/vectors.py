"""Vectors that were computed once, on disk: whole blocks of rows, read through memory maps.

A table has its rows in the order of its names and is built by any number of processes at once, each
taking the first block that nobody has. A killed one leaves its blocks to the others.
"""

import contextlib
import fcntl
import os
import sys
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

BLOCK = 4096  # rows of a file; what a kill can cost
KEY_DIGITS = 16
NOTE = ".sha256"  # suffix of the hash beside a block

Compute = Callable[[list[str]], Tensor]


class Vectors:
    """float32 rows [N, D] by name. `folder` tells what they are; the key is a hash of that."""

    def __init__(self, parent: Path, names: list[str], meaning: dict, block: int = BLOCK):
        """`names` without repetition; `meaning`: everything that decides the vectors."""
        self.names, self.block = names, block
        self._row_of = {name: row for row, name in enumerate(names)}
        meaning = meaning | {"names": sha256_of(canonical_json(names)), "block": block}
        self.folder = parent / sha256_of(canonical_json(meaning))[:KEY_DIGITS]
        self._meaning = meaning
        self._maps: list[np.ndarray] | None = None

    def __getstate__(self) -> dict:
        """Another process maps the files anew."""
        return vars(self) | {"_maps": None}

    def __getitem__(self, name: str) -> Tensor:
        """[D] of one name. UserError when the files are broken."""
        block, row = divmod(self._row_of[name], self.block)
        return torch.from_numpy(self._blocks()[block][row].copy())

    def build(self, compute: Compute) -> None:
        """Compute every block that is not there yet; return when all are there.

        compute: names to float32 [n, D]. Blocks that another process works on are waited for, or
        taken over when it dies.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "about.json", self._meaning)
        with open(self.folder / ".lock", "a+b") as locks:
            self._build_missing(compute, locks, wait=False)
            if not all(path.is_file() for path in self._paths()):
                print(f"{self.folder}: waiting for others", file=sys.stderr, flush=True)
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
            with _claimed(locks, number, wait) as ours:
                if ours and not path.is_file():
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
            # Before the block has its name: no block is without its hash.
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
            raise UserError(f"{path}: not the vectors that were put there: delete {self.folder}")
        return block


@contextlib.contextmanager
def _claimed(locks: BinaryIO, number: int, wait: bool) -> Iterator[bool]:
    """Whether block `number` is this process's now. The kernel frees what a dead one held."""
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
