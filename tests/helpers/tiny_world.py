"""A frozen dataset version of coloured clips with tones, made without media; tiny runs on it."""

from pathlib import Path

import numpy as np
import pandas as pd

from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.config.sections import Inputs, Masking, Optimiser
from clip4vla.models.clip4vla.settings import Model

VERSION, CACHE_ID = "tiny-v1-0a1b2c", "cafe0001"
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SILENT = {"t2", "t7", "v1", "e3"}
SPLITS = {
    "train": [f"t{i}" for i in range(9)],
    "val": [f"v{i}" for i in range(4)],
    "test": [f"e{i}" for i in range(5)],
}
MODEL = Model(architecture="tiny", weights=None, joint_layers=1)
INPUTS = Inputs(max_frames=2, max_segments=2, max_words=8)


def colour(clip_id):
    return list(COLOURS)[int(clip_id[1:]) % 3]


def fake_frames(path, fps, seconds=None):
    rng = np.random.default_rng(sum(map(ord, Path(path).stem)))
    for _ in range(2):
        noise = rng.integers(-20, 20, size=(48, 64, 3))
        yield (np.array(COLOURS[colour(Path(path).stem)]) + noise).astype(np.uint8)


def fake_audio(path):
    rng = np.random.default_rng(sum(map(ord, Path(path).stem)))
    pitch = 300.0 * (1 + list(COLOURS).index(colour(Path(path).stem)))
    wave = np.sin(2 * np.pi * pitch * np.arange(32000) / 16000) + 0.05 * rng.standard_normal(32000)
    return (0.2 * wave[None]).astype(np.float32), 16000


def build_world(folder, labelled=lambda splits: splits, settings=Cache()):
    """Write the caches; returns the manifests as `train` and `evaluate` take them.

    labelled: changes the labels of the table of splits before it is frozen. settings: of the cache.
    """
    media, cache = folder / "media", folder / "cache"
    media.mkdir(parents=True)
    rows, splits = [], []
    for split, clip_ids in SPLITS.items():
        for i, clip_id in enumerate(clip_ids):
            path = media / f"{clip_id}.mp4"
            path.touch()
            audio = "no_audio_stream" if clip_id in SILENT else "ok"
            row = {"clip_id": clip_id, "sound": "unknown", "shard": i % 2, "path": str(path)}
            row |= {"fetch": "ok", "video": "ok", "audio": audio, "duration": 2.0}
            row |= {"start": 0.0, "end": 2.0}
            rows.append(row | {"tool": "local", "decoder": "fake 1"})
            name = colour(clip_id)
            captions = [f"a {name} thing", f"the sound of {name}"]
            item = {"split": split, "clip_id": clip_id, "captions": captions, "labels": [name]}
            splits.append(item)
    ledger = pd.DataFrame(rows)
    indexes = []
    for shard in (0, 1):
        index = cache / "shards" / f"{shard}.parquet"
        tar = index.with_suffix(".tar")
        rows = ledger[ledger.shard == shard]
        write_parquet(index, build_shard(rows, settings, tar, fake_audio, fake_frames))
        indexes.append(index)
    freeze(ledger, labelled(pd.DataFrame(splits)), indexes, VERSION, settings, cache)
    return {(VERSION, CACHE_ID): cache / "manifest.json"}


def source(split, share=0.5):
    return Source(dataset=VERSION, cache_id=CACHE_ID, split=split, nonverbal_share=share)


def optimiser(**given):
    values = {"lr": 1e-3, "head_lr": 1e-2, "epochs": 2, "batch_size": 4}
    return Optimiser(**(values | given))


def pretrain(**given):
    values = {
        "sources": [source("train", 0.0), source("val", 1.0)],
        "model": MODEL,
        "inputs": INPUTS,
        "masking": Masking(),
        "optimiser": optimiser(),
    }
    return Pretrain(**(values | given))


def finetune(task="retrieval", **given):
    values = {
        "start": None,
        "task": task,
        "train": source("train"),
        "val": source("val"),
        "model": MODEL,
        "inputs": INPUTS,
        "optimiser": optimiser(),
    }
    return Finetune(**(values | given))
