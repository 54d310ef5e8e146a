"""Verify that a frozen dataset version still has the bytes that its manifest names."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from clip4vla.cache.manifest import read_manifest
from clip4vla.cache.shards import Content, IndexRow, Members, frame_name, json_of, sha256_of_members
from clip4vla.common.files import sha256_of_file
from clip4vla.common.progress import track
from clip4vla.config.data import Cache

BLOCK = 1 << 20  # bytes read at a time behind the last clip


@dataclass(frozen=True)
class Damage:
    """One difference to the frozen version. `shard` is None for the tables of a version."""

    path: Path
    problem: str
    shard: int | None = None
    clip_id: str = ""

    def __str__(self) -> str:
        clip = f"clip {self.clip_id}: " if self.clip_id else ""
        return f"{self.path}: {clip}{self.problem}"


def verify(manifest_path: str | Path, workers: int = 1) -> list[Damage]:
    """Read every byte of a dataset version; return a Damage per table, tar, index or clip.

    Checks sizes and sha256 of all files, sha256 of every clip's frames and log-mel, decodes every
    JPEG, and checks type, shape and finite values of every log-mel. `workers` processes take a
    shard at a time. Raises UserError if the manifest is missing.
    """
    manifest_path = Path(manifest_path)
    manifest, folder = read_manifest(manifest_path), manifest_path.parent
    damages = [
        Damage(folder / name, problem)
        for name, sha256 in manifest["files"].items()
        if (problem := file_problem(folder / name, sha256))
    ]
    cache = Cache.model_validate(manifest["cache"])
    check, entries = partial(_check_shard, folder=folder, cache=cache), manifest["shards"]
    workers = min(workers, len(entries))  # a pool forks all of its processes at once
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        checked = pool.map(check, entries) if pool else map(check, entries)
        for of_shard in track(checked, f"verify {manifest['dataset']}", len(entries)):
            damages += of_shard
    return damages


def file_problem(path: Path, sha256: str) -> str | None:
    """Return the problem of a file that must have this hash, or None."""
    if not path.is_file():
        return "is missing"
    return None if sha256_of_file(path) == sha256 else "has changed since the version was frozen"


def _check_shard(entry: dict[str, Any], *, folder: Path, cache: Cache) -> list[Damage]:
    """Return the damages of one shard, reading its tar once from start to end."""
    index, tar, shard = folder / entry["index"], folder / entry["tar"], entry["shard"]
    problem = file_problem(index, entry["index_sha256"])
    damages = [Damage(index, problem, shard)] if problem else []
    rows = [] if problem else indexed(index)
    if not tar.is_file():
        return [*damages, Damage(tar, "is missing", shard)]
    digest = hashlib.sha256()
    broken: list[Damage] = []
    with open(tar, "rb") as stream:
        for row, members in clips_of(stream, rows, cache, digest):
            if problem := clip_problem(row, members, cache):
                broken.append(Damage(tar, problem, shard, row["clip_id"]))
        while block := stream.read(BLOCK):
            digest.update(block)
    size = tar.stat().st_size
    if size != entry["tar_bytes"]:
        sizes = f"has {size} bytes instead of {entry['tar_bytes']}"
        damages.append(Damage(tar, f"{sizes}; {len(broken)} clips are damaged", shard))
    elif broken:
        damages += broken
    elif digest.hexdigest() != entry["tar_sha256"]:
        damages.append(Damage(tar, "has changed outside its frames and log-mels", shard))
    return damages


def indexed(index: Path) -> list[IndexRow]:
    """Return the index rows of the clips that are in the tar, in the order of the tar."""
    table = pd.read_parquet(index)
    rows = table[table.cache == "ok"].to_dict("records")
    return sorted(rows, key=lambda row: min(places_of(row), default=(0, 0)))


def clips_of(
    stream: BinaryIO, rows: list[IndexRow], cache: Cache, digest: "hashlib._Hash | None" = None
) -> Iterator[tuple[IndexRow, Members]]:
    """Yield every row with its members as read from the tar; hash all bytes into `digest`."""
    start = 0
    for row in rows:
        places = places_of(row)  # none of a sound file that is digital silence
        end = max((offset + size for offset, size in places), default=start)
        block = stream.read(end - start)
        if digest is not None:
            digest.update(block)
        pieces = [block[offset - start : offset - start + size] for offset, size in places]
        yield row, members_of(row, pieces, cache)
        start = end


def places_of(row: IndexRow) -> list[tuple[int, int]]:
    """Return (byte position, size) of a clip's frames, if any, and, with sound, its log-mel."""
    places = list(zip(row["frame_offsets"], row["frame_sizes"], strict=True))
    if row["channels"]:
        places.append((row["log_mel_offset"], row["log_mel_size"]))
    return [(int(offset), int(size)) for offset, size in places]


def members_of(row: IndexRow, pieces: Sequence[Content], cache: Cache) -> Members:
    """Return the members in the order of the tar, from the bytes at `places_of`.

    The index has no position for the json, which is built again from the index row.
    """
    frames = pieces[: row["n_frames"]]
    members = {frame_name(position): frame for position, frame in enumerate(frames)}
    members["json"] = json_of(row, cache)
    return members | ({"logmel.npy": pieces[-1]} if row["channels"] else {})


def clip_problem(row: IndexRow, members: Members, cache: Cache) -> str | None:
    """Return the problem of one clip, or None."""
    for name, content in members.items():
        if name.endswith(".jpg") and (problem := _jpeg_problem(content, cache.frames.short_side)):
            return f"frame {name} {problem}"
    if row["channels"]:
        shape = (row["channels"], row["T"], cache.log_mel.n_mels)
        if problem := _array_problem(members["logmel.npy"], shape):
            return f"its log-mel {problem}"
    return None if sha256_of_members(members) == row["sha256"] else "its bytes have changed"


def _jpeg_problem(content: Content, short_side: int) -> str | None:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if min(image.size) != short_side:  # checked before its pixels are allocated
                return f"has {image.size[0]} x {image.size[1]} pixels"
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "is a corrupt or truncated JPEG"
    return None


def _array_problem(content: Content, shape: tuple[int, ...]) -> str | None:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError):
        return "is a corrupt or truncated array"
    if array.dtype != np.float16 or array.shape != shape:
        return f"is {array.dtype} {list(array.shape)}, not float16 {list(shape)}"
    return None if np.isfinite(array.sum(dtype=np.float32)) else "holds NaN or infinity"
