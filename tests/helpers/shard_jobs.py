"""The cache stage on fake media, as a job that is killed; `python shard_jobs.py HOME KILLS SEED`."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import torch
from features_fakes import fake_audio, fake_frames

from clip4vla.common.files import sha256_of_file, write_parquet
from clip4vla.config import layout
from clip4vla.config.data import Cache
from clip4vla.media import decode
from clip4vla.stages import data

VERSION, CACHE_ID = "demo-v1-0a1b2c", "cafe0001"
PLAN = SimpleNamespace(
    caches={(VERSION, CACHE_ID): Cache()},
    dataset_of=lambda version: ("demo", SimpleNamespace(shards=2)),
)
SHARDS = Path(layout.cache_dir(VERSION, CACHE_ID), "shards")


def put_ledger(home, ledger):
    write_parquet(home / layout.data_dir(VERSION) / "ledger.parquet", ledger)


def build(shard):
    """What the rule cache_shard does."""
    with patch.multiple(decode, sound_blocks=fake_audio, decode_frames=fake_frames):
        data.cache(PLAN, VERSION, CACHE_ID, shard)


def files(home):
    """Hash of everything in the shards' folder but locks."""
    found = (path for path in (home / SHARDS).rglob("*") if path.is_file())
    return {path.name: sha256_of_file(path) for path in found if path.name != ".lock"}


def in_child(home, seconds=None):
    """Build shard 0 in a child of its own; kill it after so many seconds. Returns its time."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(home)
        build(0)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return time.monotonic() - begin


def killed(home, kills, seed):
    """Kill the job at random moments, each time in what the last one left; then let it end."""
    undisturbed, rng, hits = home / "undisturbed", random.Random(seed), 0
    put_ledger(undisturbed, pd.read_parquet(home / "ledger.parquet"))
    put_ledger(home, pd.read_parquet(home / "ledger.parquet"))
    in_child(undisturbed)  # the first one also warms up the libraries' own caches
    duration = in_child(undisturbed)
    expected = files(undisturbed)
    for _ in range(kills):
        (home / SHARDS / "0.parquet").unlink(missing_ok=True)  # so Snakemake begins a job again
        in_child(home, rng.uniform(0, 1.1 * duration))
        left = files(home)
        hits += "0.parquet" not in left
        for name in expected.keys() & left.keys():
            assert left[name] == expected[name], f"{name} is half written"
    in_child(home)
    assert files(home) == expected
    print(f"{hits} of {kills} kills came before the end")


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
