"""Small media, decoded by fakes, and a frozen dataset version made of them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from features_fakes import CLIPS, fake_audio, fake_frames

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard, rows_of
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.config.keys import cache_id

STORED = Path(__file__).parents[1] / "parity" / "reference"


@pytest.fixture(scope="session")
def vectors():
    folder = Path(os.environ.get("CLIP4VLA_REFERENCE", STORED))
    with np.load(folder / "vectors.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def ledger(tmp_path):
    rows = []
    for clip_id, (seconds, channels, shard) in CLIPS.items():
        path = tmp_path / "media" / f"{clip_id}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        audio = "ok" if channels else "no_audio_stream"
        row = {"clip_id": clip_id, "sound": "unknown", "shard": shard, "path": str(path)}
        row |= {"file": path.name, "sha256": "0" * 64}
        row |= {"start": float("nan"), "end": float("nan")}
        row |= {"fetch": "ok", "video": "ok", "audio": audio, "duration": seconds}
        rows.append(row | {"tool": "local", "decoder": "fake 1"})
    gone = rows[0] | {"clip_id": "gone", "fetch": "gone", "video": None, "audio": None}
    return pd.DataFrame([*rows, gone | {"path": None}])


@pytest.fixture
def build(ledger):
    def build(tar, shard=0, rows=ledger, audio=fake_audio, frames=fake_frames):
        return build_shard(rows_of(rows, shard), Cache(), tar, audio, frames)

    return build


@pytest.fixture
def manifest_path(tmp_path, ledger, build):
    folder = tmp_path / "cache"
    for shard in (0, 1):
        index = build(folder / "shards" / f"{shard}.tar", shard)
        write_parquet(folder / "shards" / f"{shard}.parquet", index)
    splits = pd.DataFrame(
        [
            {"split": split, "clip_id": clip_id, "captions": [f"about {clip_id}"], "labels": []}
            for split, ids in {"train": [*CLIPS, "gone"], "test": ["charlie", "delta"]}.items()
            for clip_id in ids
        ]
    )
    indexes = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
    freeze(ledger, splits, indexes, "demo-v1-0a1b2c", Cache(), folder)
    return folder / "manifest.json"


@pytest.fixture
def cache(manifest_path):
    return ClipCache(manifest_path)


@pytest.fixture
def frozen(tmp_path, ledger):
    """frozen(cache, audio): the manifest of all clips."""

    def frozen(cache, audio=fake_audio):
        folder = tmp_path / f"cache-{cache_id(cache)}"
        for shard in (0, 1):
            tar = folder / "shards" / f"{shard}.tar"
            index = build_shard(rows_of(ledger, shard), cache, tar, audio, fake_frames)
            write_parquet(tar.with_suffix(".parquet"), index)
        columns = {"split": "train", "captions": [["a"]] * len(CLIPS), "label": ""}
        splits = pd.DataFrame({"clip_id": list(CLIPS)} | columns)
        indexes = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
        freeze(ledger, splits, indexes, "demo-v1-0a1b2c", cache, folder)
        return folder / "manifest.json"

    return frozen
