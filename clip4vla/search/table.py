"""Tables of vectors: written in parts, so that an interrupted run goes on, and put together."""

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

METADATA = "clip4vla"  # the key of the file's own description
FORMATS = (".npz", ".parquet")


def check_format(out: Path) -> None:
    """UserError unless the name of the output says what it is, and is none of a folder."""
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: name the output .npz or .parquet")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file")


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


def in_parts(
    out: Path,
    inputs: Sequence[Any],
    size: int,
    identity: dict[str, Any],
    embed: Callable[[Sequence[Any]], list[dict]],
    track: Callable[[list, str], Iterator],
) -> pa.Table:
    """All rows of `inputs`, `size` of them at a time; those of an earlier attempt are kept.

    Parts lie in `<out>.parts` until `finish`. They belong to one `identity` and list of inputs:
    for another one they are made anew, as is a part that cannot be read.
    """
    folder = _parts(out)
    key, known = {"sha256": sha256_of(canonical_json(identity)), "size": size}, folder / "key.json"
    if _readable(read_json, known) != key:
        for stale in folder.glob("*.parquet"):
            stale.unlink()
    write_json(known, key)
    tables = [COLUMNS.empty_table()]
    starts = list(range(0, len(inputs), size))
    for start in track(starts, f"embed {out.name}, in parts of {size}"):
        path = folder / f"{start:09d}.parquet"
        part = _readable(pq.read_table, path)
        if part is None:
            part = pa.Table.from_pylist(embed(inputs[start : start + size]), COLUMNS)
            with whole_file(path) as temporary:
                pq.write_table(part, temporary)
        tables.append(part)
    return pa.concat_tables(tables)


def _readable(read: Callable[[Path], Any], path: Path) -> Any:
    """What is in a file; None where there is none, or what is there is damaged."""
    try:
        return read(path) if path.is_file() else None
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's failure, not the file's
            raise
        return None


def owner(out: Path) -> AbstractContextManager:
    """Hold the parts of `out` alone, so that two runs never mix theirs."""
    return sole_owner(_parts(out))


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def finish(out: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
    """Write the output, whole or not at all, and clear its parts away."""
    with whole_file(out) as temporary:
        if out.suffix == ".parquet":
            described = {METADATA: canonical_json(metadata)}
            pq.write_table(table.replace_schema_metadata(described), temporary, compression="zstd")
        else:
            with open(temporary, "wb") as stream:
                arrays = _arrays(table, metadata["dim"])
                arrays["metadata"] = np.array(canonical_json(metadata))
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # allow_pickle
    shutil.rmtree(_parts(out))


def _arrays(table: pa.Table, dim: int) -> dict[str, np.ndarray]:
    """Columns as arrays that need no pickle; `vectors` [N, D] has NaN where there is none."""
    column = table["vector"].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.full((len(table), dim), np.nan, dtype=np.float32)
    vectors[there] = column.flatten().to_numpy().reshape(-1, dim)  # nulls have no values in it
    arrays = {"vectors": vectors}
    for name in ("input", "status", "detail"):
        arrays[name] = np.array(table[name].to_pylist(), dtype=np.str_)
    for name in ("start", "end"):
        arrays[name] = table[name].to_numpy().astype(np.float64)
    return arrays


def read_description(path: str | Path) -> dict[str, Any]:
    """What a table of vectors says of itself: checkpoint, settings, options, versions."""
    path = Path(path)
    check_format(path)
    if path.suffix == ".parquet":
        return json.loads(pq.read_schema(path).metadata[METADATA.encode()])
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(str(arrays["metadata"]))
