"""Verify that a frozen dataset version still has the bytes that its manifest names."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from clip4vla.cache.manifest import read_manifest
from clip4vla.cache.members import members_of, sha256_of_members, sound_members
from clip4vla.common.files import sha256_of_file
from clip4vla.common.progress import track
from clip4vla.config.data import Cache

SHOWN = 8  # damaged clips in a line


@dataclass(frozen=True)
class Damage:
    """One file that differs from the frozen version. `shard` is None for its tables."""

    path: Path
    problem: str
    shard: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def verify(manifest_path: str | Path, workers: int = 1) -> list[Damage]:
    """Compare the sha256 of every file of a dataset version; return a Damage per file.

    The damaged clips of a tar are named. `workers` processes take a shard at a time. Raises
    UserError if the manifest is missing.
    """
    manifest_path = Path(manifest_path)
    manifest, folder = read_manifest(manifest_path), manifest_path.parent
    damages = [
        Damage(folder / name, problem)
        for name, sha256 in manifest["files"].items()
        if (problem := _file_problem(folder / name, sha256))
    ]
    cache = Cache.model_validate(manifest["cache"])
    check, entries = partial(_check_shard, folder=folder, cache=cache), manifest["shards"]
    workers = min(workers, len(entries))  # a pool forks all of its processes at once
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        checked = pool.map(check, entries) if pool else map(check, entries)
        for of_shard in track(checked, f"verify {manifest['dataset']}", len(entries)):
            damages += of_shard
    return damages


def _file_problem(path: Path, sha256: str) -> str:
    """Return the problem of a file that must have this hash, or ""."""
    if not path.is_file():
        return "is missing"
    return "" if sha256_of_file(path) == sha256 else "has changed since the version was frozen"


def _check_shard(entry: dict[str, Any], *, folder: Path, cache: Cache) -> list[Damage]:
    """Return the damages of one shard."""
    index, tar, shard = folder / entry["index"], folder / entry["tar"], entry["shard"]
    damages = [
        Damage(path, problem, shard)
        for path, sha256 in ((index, entry["index_sha256"]), (tar, entry["tar_sha256"]))
        if (problem := _file_problem(path, sha256))
    ]
    if len(damages) == 1 and damages[0].path == tar and tar.is_file():
        clips = list(_changed_clips(tar, index, cache))
        more = f" and {len(clips) - SHOWN} more" if len(clips) > SHOWN else ""
        named = f"in clips {', '.join(clips[:SHOWN])}{more}" if clips else "in none of its clips"
        return [Damage(tar, f"{damages[0].problem}, {named}", shard)]
    return damages


def _changed_clips(tar: Path, index: Path, cache: Cache) -> Iterator[str]:
    """Yield the ids of clips in a tar that do not have the sha256 of the index."""
    table = pd.read_parquet(index)
    with open(tar, "rb") as stream:
        for row in table[table.cache == "ok"].to_dict("records"):
            places = list(zip(row["frame_offsets"], row["frame_sizes"], strict=True))
            if row["channels"]:
                places += [
                    (row[f"{name}_offset"], row[f"{name}_size"]) for name in sound_members(cache)
                ]
            pieces = [os.pread(stream.fileno(), int(size), int(offset)) for offset, size in places]
            if sha256_of_members(members_of(row, pieces, cache)) != row["sha256"]:
                yield row["clip_id"]
