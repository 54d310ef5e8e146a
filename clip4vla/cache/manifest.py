"""The manifest of a frozen dataset version: its content and the hashes that run keys cite."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import (
    read_json,
    sha256_of_file,
    sha256_of_ids,
    write_json,
    write_parquet,
    write_text,
)
from clip4vla.common.parquet import read_frame
from clip4vla.config.data import Cache
from clip4vla.config.layout import command_for, remake
from clip4vla.datasets.labels import OLDER, label_column, with_labels

if TYPE_CHECKING:  # `clip4vla plan` reads manifests, and must start quickly
    import pandas as pd

CLIP_COLUMNS = ["clip_id", "sound", "silent", "audio", "duration", "shard"]
SPLIT_COLUMNS = ["split", "clip_id", "captions", "labels"]
KEYS = {"dataset", "cache", "clips", "splits", "not_decodable", "tools"}  # of every manifest
SHARD_KEYS = {"shard", "index_sha256", "tar_bytes", "tar_sha256", "clips"}
INDEX_NEEDED = ["clip_id", "cache", "detail", "tools", "tar_bytes", "tar_sha256"]
NOTE = "frozen.sha256"  # of the manifest beside it: kept when Snakemake deletes its outputs


def freeze(
    ledger: "pd.DataFrame",
    splits: "pd.DataFrame",
    indexes: Iterable[str | Path],
    dataset: str,
    cache: Cache,
    out_dir: str | Path,
) -> dict[str, Any]:
    """Write clips.parquet, splits.parquet and then manifest.json; return the manifest.

    `indexes` are the shards' index files inside `out_dir`, each with its tar beside it. Usable
    clips are those of the indexes with `cache` = ok; silent: an audio status other than ok. Raises
    UserError when a tar is missing or its size differs from the one in its index.
    """
    import pandas as pd

    out_dir = Path(out_dir)
    paths = sorted(map(Path, indexes), key=lambda path: int(path.stem))
    fix = "delete it and run the same command again"
    tables = [read_frame(path, fix, INDEX_NEEDED) for path in paths]
    shards = [_shard(path, table, out_dir) for path, table in zip(paths, tables, strict=True)]
    cached = pd.concat([table[["clip_id", "cache", "detail", "tools"]] for table in tables])
    usable = ledger.clip_id.isin(cached.clip_id[cached.cache == "ok"])
    frozen = frozen_tables(ledger[usable], splits)
    for name, table in frozen.items():
        write_parquet(out_dir / name, table)
    clips = frozen["clips.parquet"]
    failed = cached[cached.cache != "ok"].sort_values("clip_id")
    manifest = {
        "dataset": dataset,
        "cache": cache.scientific(),
        "shards": shards,
        "files": {name: sha256_of_file(out_dir / name) for name in frozen},
        "clips": _counts(ledger.clip_id, clips),
        "splits": {
            split: _counts(rows.clip_id, clips)
            for split, rows in splits.groupby("split", sort=True)
        },
        "not_decodable": dict(zip(failed.clip_id, failed.detail, strict=True)),
        "tools": {
            "fetch": _distinct(ledger.tool[usable]),
            "probe": _distinct(ledger.decoder[usable]),
            "cache": _distinct(cached.tools),
        },
    }
    write_json(out_dir / "manifest.json", manifest)
    return manifest


def frozen_tables(usable: "pd.DataFrame", splits: "pd.DataFrame") -> dict[str, "pd.DataFrame"]:
    """Return clips.parquet and splits.parquet of a version, from the ledger of its usable clips.

    A table of splits of an older version keeps its column `label`, and so its bytes.
    """
    clips = usable.assign(silent=usable.audio != "ok").sort_values("clip_id")[CLIP_COLUMNS]
    kept = splits[splits.clip_id.isin(clips.clip_id)]
    kept = kept.sort_values(["split", "clip_id"])[[*SPLIT_COLUMNS[:-1], label_column(splits)]]
    return {
        "clips.parquet": clips.reset_index(drop=True),
        "splits.parquet": kept.reset_index(drop=True),
    }


def stay_frozen(path: str | Path) -> None:
    """Note a new manifest's sha256; refuse one that differs from the version frozen before.

    A manifest may be deleted and written again, but never changed, because runs cite it. Raises
    UserError, and removes the manifest, if its contents differ.
    """
    path, sha256 = Path(path), sha256_of_file(path)
    before = frozen_sha256(path)
    if before is not None and before != sha256:
        path.unlink()
        raise UserError(
            f"{path}: this version was frozen before with other contents ({before[:12]}, now "
            f"{sha256[:12]}). Fix: bring back its media and tools, or set another `version` of the "
            "dataset in the config"
        )
    write_text(path.with_name(NOTE), sha256 + "\n")


def frozen_sha256(path: Path) -> str | None:
    """Return the sha256 that the manifest had when it was frozen; None without such a note.

    Raises UserError for a damaged note.
    """
    note = path.with_name(NOTE)
    if not note.exists():
        return None
    text = note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise UserError(
            f"{note}: damaged: it must hold the sha256 of {path.name}. Fix: put it back; or, if "
            f"`sha256sum {path}` gives the manifest_sha256 that your results name, delete it and "
            f"run {command_for(path.with_name('record.json'))}"
        )
    return text


def check_frozen(path: Path) -> bool:
    """Return whether a manifest is known to be unchanged; False without a note of its sha256.

    Raises UserError when it has changed since it was frozen.
    """
    frozen = frozen_sha256(path)
    if frozen is not None and frozen != sha256_of_file(path):
        raise UserError(
            f"{path}: changed since it was frozen (its sha256 is not that of {NOTE}). Fix: put the "
            f"frozen one back, or {remake(path)} to freeze the shards again"
        )
    return frozen is not None


def read_frozen(manifest: dict[str, Any], path: Path) -> "pd.DataFrame":
    """Read a table of the version, with a tuple of `labels` for every clip of a split.

    UserError unless its sha256 is that in the manifest.
    """
    fix = f"run `clip4vla data verify {manifest['dataset']} --repair`"
    if path.is_file() and sha256_of_file(path) != manifest["files"].get(path.name):
        raise UserError(f"{path}: changed since the version was frozen. Fix: {fix}")
    if path.stem == "clips":
        return read_frame(path, fix, CLIP_COLUMNS)
    return with_labels(read_frame(path, fix, SPLIT_COLUMNS, OLDER))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest that `freeze` wrote.

    Raises UserError when it is missing, corrupt, changed since it was frozen, or names files
    outside its own folder: a manifest may have come from elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest. Fix: {remake(path)}")
    broken = UserError(
        f"{path}: corrupt manifest. Fix: put the frozen one back, or {remake(path)} to "
        "freeze the shards again"
    )
    try:
        manifest = read_json(path)
        shards = manifest["shards"]
        named = [shard[kind] for shard in shards for kind in ("tar", "index")]
        named += list(manifest["files"])
        outside = [name for name in named if Path(name).is_absolute() or ".." in Path(name).parts]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise broken from None
    if outside:
        raise UserError(
            f"{path}: names a file outside its folder ({outside[0]!r}). Fix: do not use it"
        )
    check_frozen(path)
    if not manifest.keys() >= KEYS or not all(shard.keys() >= SHARD_KEYS for shard in shards):
        raise broken
    return manifest


def damaged(tar: Path, index: Path) -> UserError:
    """Return the error for a tar that is not the one its index was written for."""
    return UserError(
        f"{tar}: missing, truncated or changed since it was indexed. Fix: delete {index} and run "
        "the same command again"
    )


def _shard(index: Path, table: "pd.DataFrame", out_dir: Path) -> dict[str, Any]:
    """Return the manifest's entry of one shard."""
    tar = index.with_suffix(".tar")
    if not tar.is_file():
        raise damaged(tar, index)
    size = tar.stat().st_size
    if len(table) and size != table.tar_bytes.iloc[0]:
        raise damaged(tar, index)
    return {
        "shard": int(index.stem),
        "index": index.relative_to(out_dir).as_posix(),
        "index_sha256": sha256_of_file(index),
        "tar": tar.relative_to(out_dir).as_posix(),
        "tar_bytes": size,
        # An index without rows cannot hold the hash; its tar is empty and quickly read.
        "tar_sha256": table.tar_sha256.iloc[0] if len(table) else sha256_of_file(tar),
        "clips": int((table.cache == "ok").sum()),
    }


def _counts(planned: "pd.Series", clips: "pd.DataFrame") -> dict[str, Any]:
    """Count planned, usable and silent clips, and hash the usable ids."""
    rows = clips[clips.clip_id.isin(planned)]
    return {
        "planned": int(planned.nunique()),
        "usable": len(rows),
        "silent": int(rows.silent.sum()),
        "ids_sha256": sha256_of_ids(rows.clip_id),
    }


def _distinct(values: "pd.Series") -> list[str]:
    return sorted(values.dropna().astype(str).unique())
