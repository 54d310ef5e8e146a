"""Tables of vectors, written in parts, so that an interrupted command resumes, and then joined."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip4vla.common.errors import UserError
from clip4vla.common.files import (
    canonical_json,
    read_json,
    sha256_of,
    sole_owner,
    whole_file,
    write_json,
)

METADATA = "clip4vla"  # key of the description within the file
FORMATS = (".npz", ".parquet")


def check_format(out: Path) -> None:
    """Raise UserError unless the output is named as a file of a known format."""
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: unknown format. Fix: name the output .npz or .parquet")
    if out.is_dir():
        raise UserError(f"{out}: is a folder. Fix: name a file")


COLUMNS = pa.schema(  # see docs/embed.md; `vector` is null where nothing was embedded
    [
        ("input", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("status", pa.string()),
        ("detail", pa.string()),
        ("vector", pa.list_(pa.float32())),
    ]
)


def embed_in_parts(
    out: Path,
    inputs: Sequence[Any],
    size: int,
    identity: dict[str, Any],
    embed: Callable[[Sequence[Any]], list[dict]],
    track: Callable[[list, str], Iterator],
) -> pa.Table:
    """Return the rows of all inputs, embedded `size` inputs at a time.

    Parts are kept in `<out>.parts` until `write_table`, and reused by the next command of the same
    `identity`. Parts of another identity and damaged parts are embedded again.
    """
    folder = _parts(out)
    key_file = folder / "key.json"
    key = {"sha256": sha256_of(canonical_json(identity)), "size": size}
    if _readable(read_json, key_file) != key:
        for stale in folder.glob("*.parquet"):
            stale.unlink()
    write_json(key_file, key)
    tables = [COLUMNS.empty_table()]
    firsts = list(range(0, len(inputs), size))
    for first in track(firsts, f"embed {out.name}, in parts of {size}"):
        path = folder / f"{first:09d}.parquet"
        part = _readable(pq.read_table, path)
        if part is None:
            part = pa.Table.from_pylist(embed(inputs[first : first + size]), COLUMNS)
            with whole_file(path) as temporary:
                pq.write_table(part, temporary)
        tables.append(part)
    return pa.concat_tables(tables)


def _readable(read: Callable[[Path], Any], path: Path) -> Any:
    """Return the content of a file; None if it is missing or damaged."""
    try:
        return read(path) if path.is_file() else None
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk, not of the file
            raise
        return None


def lock_parts(out: Path) -> AbstractContextManager:
    """Lock the parts of `out`, so that two commands never mix them."""
    return sole_owner(_parts(out))


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def write_table(out: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Write the output atomically and remove its parts."""
    with whole_file(out) as temporary:
        if out.suffix == ".parquet":
            table = table.replace_schema_metadata({METADATA: canonical_json(metadata)})
            pq.write_table(table, temporary, compression="zstd")
        else:
            with open(temporary, "wb") as stream:
                arrays = _arrays(table, metadata["dim"])
                arrays["metadata"] = np.array(canonical_json(metadata))
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # allow_pickle
    shutil.rmtree(_parts(out))


def _arrays(table: pa.Table, dim: int) -> dict[str, np.ndarray]:
    """Return columns as arrays without pickle; `vectors` [N, D] has NaN for missing ones."""
    column = table["vector"].combine_chunks()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.full((len(table), dim), np.nan, dtype=np.float32)
    vectors[present] = column.flatten().to_numpy().reshape(-1, dim)  # nulls have no values in it
    arrays = {"vectors": vectors}
    for name in ("input", "status", "detail"):
        arrays[name] = np.array(table[name].to_pylist(), dtype=np.str_)
    for name in ("start", "end"):
        arrays[name] = table[name].to_numpy().astype(np.float64)
    return arrays


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the description of a table: its checkpoint, settings, options and versions."""
    path = Path(path)
    check_format(path)
    if path.suffix == ".parquet":
        return json.loads(pq.read_schema(path).metadata[METADATA.encode()])
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(str(arrays["metadata"]))
