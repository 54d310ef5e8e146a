"""Repair a frozen dataset version: build damaged files again, and keep them if they are the same.

A version is its manifest, which is never written here. A file is replaced only by one that has the
sha256 of the manifest.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from clip4vla.cache.manifest import frozen_tables, read_manifest
from clip4vla.cache.shards import build_shard, rows_of
from clip4vla.cache.verify import Damage
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file, sole_owner, write_parquet
from clip4vla.common.parquet import read_frame
from clip4vla.config.data import Cache

Damaged = TypeVar("Damaged")  # of a version: the manifest's entry of a shard, or a table's name


def repair(
    manifest_path: str | Path, damages: list[Damage], ledger: pd.DataFrame, splits: pd.DataFrame
) -> list[str]:
    """Repair the damages that `verify` found; return one line for each that could not be repaired.

    ledger, splits: the tables that the version was frozen from.
    """
    manifest_path = Path(manifest_path)
    version = _Version(manifest_path.parent, read_manifest(manifest_path), ledger, splits)
    problems = []
    for entry in version.manifest["shards"]:
        if any(damage.shard == entry["shard"] for damage in damages):
            problems += _tried(version.repair_shard, entry)
    for damage in damages:
        if damage.shard is None:
            problems += _tried(version.repair_table, damage.path.name)
    return problems


def _tried(repair: Callable[[Damaged], None], damaged: Damaged) -> list[str]:
    try:
        repair(damaged)
    except UserError as error:
        return [f"not repaired: {error}"]
    return []


@dataclass
class _Version:
    """A frozen version and the tables that it was frozen from."""

    folder: Path
    manifest: dict[str, Any]
    ledger: pd.DataFrame
    splits: pd.DataFrame

    def repair_shard(self, entry: dict[str, Any]) -> None:
        """Build one shard again and put it in place. Raises UserError if that is impossible."""
        index, tar = self.folder / entry["index"], self.folder / entry["tar"]
        rows = rows_of(self.ledger, entry["shard"])
        self._check_media(rows, tar, entry["shard"])
        cache = Cache.model_validate(self.manifest["cache"])
        # The builder's lock; its folder is on the same disk.
        with sole_owner(tar.with_name(f".{tar.stem}.lock")) as place:
            new_tar, new_index = place / tar.name, place / index.name
            try:
                table = build_shard(rows, cache, new_tar)
                same = sha256_of_file(new_tar) == entry["tar_sha256"]
                if not same or not self._write_index(table, new_index, entry["index_sha256"]):
                    raise self._other_bytes(tar, index, table)
                os.replace(new_index, index)
                os.replace(new_tar, tar)
            finally:
                new_tar.unlink(missing_ok=True)
                new_index.unlink(missing_ok=True)

    def repair_table(self, name: str) -> None:
        """Write clips.parquet or splits.parquet again. Raises UserError if the bytes differ."""
        fix = "repair the shards first"
        indexes = [self.folder / entry["index"] for entry in self.manifest["shards"]]
        tables = [read_frame(index, fix, ["clip_id", "cache"]) for index in indexes]
        cached = pd.concat(tables)
        usable = self.ledger[self.ledger.clip_id.isin(cached.clip_id[cached.cache == "ok"])]
        new, path = self.folder / f".{name}.new", self.folder / name
        try:
            write_parquet(new, frozen_tables(usable, self.splits)[name])
            if sha256_of_file(new) != self.manifest["files"][name]:
                raise UserError(
                    f"{path}: the ledger or the splits are not those it was frozen from, or pandas "
                    "and pyarrow have other versions. Fix: put them back and repair again"
                )
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)

    def _check_media(self, rows: pd.DataFrame, tar: Path, shard: int) -> None:
        """Raise UserError for clips whose media file is missing."""
        gone = rows[[not Path(path).is_file() for path in rows.path]]
        if len(gone):
            raise UserError(
                f"{tar}: the media of {len(gone)} clips are gone: {', '.join(gone.clip_id)} "
                f"(first: {gone.path.iloc[0]}). Fix: put the files back, or fetch them again with "
                f"`clip4vla data fetch {self.manifest['dataset']} {shard}`, and repair again"
            )

    def _write_index(self, table: pd.DataFrame, path: Path, sha256: str) -> bool:
        """Write the index with its frozen bytes, which may name older versions of tools."""
        for tools in self.manifest["tools"]["cache"] or [""]:
            write_parquet(path, table.assign(tools=tools))
            if sha256_of_file(path) == sha256:
                return True
        return False

    def _other_bytes(self, tar: Path, index: Path, table: pd.DataFrame) -> UserError:
        now = ", ".join(table.tools.unique()) or "others"
        return UserError(
            f"{tar}: media or tools give other bytes than when it was frozen with "
            f"{' / '.join(self.manifest['tools']['cache'])} (now: {now}). Fix: put those back and "
            f"repair again; or delete {index} and run the workflow, which freezes another version "
            "of the data: runs that read this one then refuse to resume"
        )
