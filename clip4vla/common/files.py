"""Atomic writes of files, canonical JSON, hashes, and the lock on a folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.common.errors import RetryLater
from clip4vla.common.log import log

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no blanks: equal values give equal text. NaN is an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(text: str) -> str:
    """Return the hex sha256 of a text (UTF-8)."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """Return the hex sha256 of a file, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_files(paths: Sequence[str | Path]) -> str:
    """Return the sha256 of a file; of a folder or several paths, the hash of all hashes and names.

    Only files in a folder itself count.
    """
    if len(paths) == 1 and not Path(paths[0]).is_dir():
        return sha256_of_file(paths[0])
    lines = []
    for path in map(Path, paths):
        files = (
            sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        )
        lines += [f"{sha256_of_file(file)}  {file.name}" for file in files]
    return sha256_of("\n".join(lines))


def sha256_of_ids(ids: Iterable[str]) -> str:
    """Return the hash that identifies a set of clips: sha256 of the sorted ids, one per line."""
    return sha256_of("\n".join(sorted(ids)))


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    A reader never sees a partial file, and a killed writer leaves only a `.tmp` file. An OSError
    of the temporary file, or without a file name (of a full disk), gets the name of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        named = error.filename is not None and str(error.filename) != str(temporary)
        if error.errno is not None and not named:
            with contextlib.suppress(AttributeError):  # errors of PyAV keep their file name
                error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each of some files; rename all when the block succeeds.

    They are renamed in their order, and nothing is where the block fails; see `whole_file`.
    """
    with contextlib.ExitStack() as stack:  # which leaves the last one first
        yield [stack.enter_context(whole_file(path)) for path in reversed(paths)][::-1]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """Return indented JSON with sorted keys, the format of our JSON files."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(path, json_text(value))


def write_parquet(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write a pandas frame as Parquet atomically; equal frames give equal bytes."""
    with whole_file(path) as temporary:
        frame.to_parquet(temporary, index=False, compression="zstd")


def write_table(path: str | Path, table: "pa.Table") -> None:
    """Write a pyarrow table as Parquet atomically; equal tables give equal bytes."""
    write_parts(path, [table])


def write_parts(path: str | Path, parts: Iterable["pa.Table"]) -> None:
    """Write a table of one or more parts as `write_table` does, with a row group for each part."""
    import pyarrow.parquet as parquet

    with whole_file(path) as temporary, contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            if writer is None:
                made = parquet.ParquetWriter(temporary, part.schema, compression="zstd")
                writer = stack.enter_context(made)
            writer.write_table(part)


def read_json(path: str | Path) -> Any:
    """Read a JSON file. ValueError for invalid JSON and for JSON that is nested too deeply."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def sole_owner(
    folder: str | Path,
    notify: Callable[[str], None] = log.info,
    given_up: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """Hold the lock of a folder, after waiting for another process that holds it.

    given_up: polled while waiting; RetryLater when it returns true.

    After `kill -9` of Snakemake its jobs run on, and the next attempt must not write at the same
    time. The kernel frees the lock when its holder dies.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as stream:
        notified = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not notified:
                    stream.seek(0)
                    owner = stream.read().strip() or "another process"
                    notify(f"{folder}: locked by {owner}; waiting for it to end")
                    notified = True
                if given_up():
                    raise RetryLater(
                        f"{folder}: locked by another process. Fix: run the same command later"
                    ) from None
                time.sleep(0.2)
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()} on {os.uname().nodename}")
        stream.flush()
        yield folder
