"""Does a frozen dataset version still hold what its manifest says?"""

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
from clip4vla.cache.shards import Content, Members, Row, about, frame_name, sha256_of_members
from clip4vla.common.files import sha256_of_file
from clip4vla.common.progress import track
from clip4vla.config.data import Cache

BLOCK = 1 << 20  # bytes read at a time behind the last clip


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was frozen. `shard` is None for the tables of a version."""

    path: Path
    what: str
    shard: int | None = None
    clip_id: str = ""

    def __str__(self) -> str:
        clip = f"clip {self.clip_id}: " if self.clip_id else ""
        return f"{self.path}: {clip}{self.what}"


def verify(manifest_path: str | Path, workers: int = 1) -> list[Damage]:
    """Read every byte of a dataset version; one Damage per table, tar, index or clip not as frozen.

    Sizes and sha256 of all files, sha256 of every clip's frames and log-mel, every JPEG decoded,
    every log-mel of the right type, shape and finite. `workers` processes take a shard at a time.
    UserError when there is no manifest to check against.
    """
    manifest_path = Path(manifest_path)
    manifest, folder = read_manifest(manifest_path), manifest_path.parent
    found = [
        Damage(folder / name, problem)
        for name, sha256 in manifest["files"].items()
        if (problem := file_problem(folder / name, sha256))
    ]
    cache = Cache.model_validate(manifest["cache"])
    check, entries = partial(_check_shard, folder=folder, cache=cache), manifest["shards"]
    workers = min(workers, len(entries))  # a pool forks all of its processes at once
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        checked = pool.map(check, entries) if pool else map(check, entries)
        for damages in track(checked, f"verify {manifest['dataset']}", len(entries)):
            found += damages
    return found


def file_problem(path: Path, sha256: str) -> str | None:
    """What is wrong with a file that must have this hash; None for nothing."""
    if not path.is_file():
        return "is missing"
    return None if sha256_of_file(path) == sha256 else "has changed since the version was frozen"


def _check_shard(entry: dict[str, Any], *, folder: Path, cache: Cache) -> list[Damage]:
    """Damages of one shard, its tar read once from front to end."""
    index, tar, shard = folder / entry["index"], folder / entry["tar"], entry["shard"]
    problem = file_problem(index, entry["index_sha256"])
    found = [Damage(index, problem, shard)] if problem else []
    rows = [] if problem else indexed(index)
    if not tar.is_file():
        return [*found, Damage(tar, "is missing", shard)]
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
        what = f"has {size} bytes instead of {entry['tar_bytes']}; {len(broken)} clips are damaged"
        found.append(Damage(tar, what, shard))
    elif broken:
        found += broken
    elif digest.hexdigest() != entry["tar_sha256"]:
        found.append(Damage(tar, "has changed outside its frames and log-mels", shard))
    return found


def indexed(index: Path) -> list[Row]:
    """Index rows of the clips that are in the tar, in the order of the tar."""
    table = pd.read_parquet(index)
    rows = table[table.cache == "ok"].to_dict("records")
    return sorted(rows, key=lambda row: min(places_of(row), default=(0, 0)))


def clips_of(
    stream: BinaryIO, rows: list[Row], cache: Cache, digest: "hashlib._Hash | None" = None
) -> Iterator[tuple[Row, Members]]:
    """Every row with its members as they lie in the tar; all bytes that pass go into `digest`."""
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


def places_of(row: Row) -> list[tuple[int, int]]:
    """(byte position, size) of a clip's frames, if any, and, with sound, its log-mel."""
    places = list(zip(row["frame_offsets"], row["frame_sizes"], strict=True))
    if row["channels"]:
        places.append((row["log_mel_offset"], row["log_mel_size"]))
    return [(int(offset), int(size)) for offset, size in places]


def members_of(row: Row, pieces: Sequence[Content], cache: Cache) -> Members:
    """Members in the order of the tar, from the bytes at `places_of`.

    The json, which the index does not place, is made anew: it holds what the index holds too.
    """
    frames = pieces[: row["n_frames"]]
    members = {frame_name(position): frame for position, frame in enumerate(frames)}
    members["json"] = about(row, cache)
    return members | ({"logmel.npy": pieces[-1]} if row["channels"] else {})


def clip_problem(row: Row, members: Members, cache: Cache) -> str | None:
    """What is wrong with one clip; None for nothing."""
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
            if min(image.size) != short_side:  # seen before anything is allocated for it
                return f"has {image.size[0]} x {image.size[1]} pixels"
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "is no whole JPEG"
    return None


def _array_problem(content: Content, shape: tuple[int, ...]) -> str | None:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError):
        return "is no whole array"
    if array.dtype != np.float16 or array.shape != shape:
        return f"is {array.dtype} {list(array.shape)}, not float16 {list(shape)}"
    return None if np.isfinite(array.sum(dtype=np.float32)) else "holds NaN or infinity"
