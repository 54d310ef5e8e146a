"""Frozen versions of the world's datasets, as the data rules leave them; no media are written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.files import write_parquet
from clip4vla.config import layout
from clip4vla.config.data import Cache
from learning import sounds
from learning.world import Clip, clips


def freeze_world(
    version: str,
    cache_id: str,
    cache: Cache,
    share: float = 1.0,
    labels: Callable[[Clip], list[str]] = lambda one: [one.seen[0][0]],
) -> Path:
    """Write data/<version>/cache-<id>/ under the working directory; give the manifest.

    The dataset is the first part of the version's name. One shard: it is small, and read in order.
    labels: of a clip; the thing that is seen.
    """
    manifest = Path(layout.manifest(version, cache_id))
    if manifest.is_file():
        return manifest
    made = {one.clip_id: one for one in clips(version.split("-")[0], share)}
    media = Path(layout.media_dir(version, 0))
    media.mkdir(parents=True, exist_ok=True)
    for clip_id in made:
        (media / clip_id).touch()  # a path that names the clip to the decoders below
    ledger = _ledger(made, media)
    index = manifest.parent / "shards" / "0.parquet"
    decoders = _decoders(made)
    write_parquet(index, build_shard(ledger, cache, index.with_suffix(".tar"), *decoders))
    items = [
        {"split": split, "clip_id": clip_id, "captions": [caption], "labels": labels(one)}
        for clip_id, one in made.items()
        for split, caption in one.captions.items()
    ]
    freeze(ledger, pd.DataFrame(items), [index], version, cache, manifest.parent)
    return manifest


def _ledger(made: dict[str, Clip], media: Path) -> pd.DataFrame:
    sound = {"speech": "verbal", "sounds": "nonverbal"}
    rows = [
        {
            "clip_id": clip_id,
            "audio": "no_audio_stream" if made[clip_id].silent else "ok",
            "sound": sound.get(made[clip_id].dataset, "unknown"),
            "path": str(media / clip_id),
        }
        for clip_id in made
    ]
    shared = {"shard": 0, "fetch": "ok", "video": "ok", "tool": "none", "decoder": "none"}
    return pd.DataFrame(rows).assign(
        **shared, start=0.0, end=sounds.SECONDS, duration=sounds.SECONDS
    )


def _decoders(made: dict[str, Clip]):
    """What stands in for the decoders of media: draw and synthesise."""

    def audio(path: str) -> tuple[np.ndarray, int]:
        return made[Path(path).name].sound()[None], sounds.RATE

    def frames(path: str, fps: float, seconds: float | None = None):
        yield made[Path(path).name].picture()

    return audio, frames
