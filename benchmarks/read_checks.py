"""What checking clips against their sha256 costs the reader, beside reading them unchecked.

    python benchmarks/read_checks.py

Clips as large as those of MSR-VTT in stereo (15 s: 15 frames, 1,875 steps of sound), of noise, so
that JPEGs are larger than real ones. The same samples are made without a check, with a sampled
share and with all of them checked, on one thread, in turn in one run; medians of CPU time count.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are first imported

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from clip4vla.cache.clips import SAMPLED, ClipCache
from clip4vla.cache.manifest import freeze
from clip4vla.cache.shards import build_shard
from clip4vla.common.device import set_threads
from clip4vla.common.files import write_parquet
from clip4vla.config.data import Cache
from clip4vla.config.sections import Inputs
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples

CLIPS, BATCH, ROUNDS = 32, 8, 15
SECONDS, RATE, SIZE = 15, 16000, (240, 320)
NEVER = 1 << 62  # one clip in so many


def frames(path, fps, seconds):
    """Smooth pictures with a little noise: they compress about as films do."""
    rng = np.random.default_rng(int(Path(path).stem))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(SECONDS):
        base = np.stack([rows, columns, rows + columns + 9 * number], axis=2)
        yield ((base + rng.integers(0, 24, size=(*SIZE, 3))) % 256).astype(np.uint8)


def sound(path):
    """Stereo noise."""
    rng = np.random.default_rng(int(Path(path).stem))
    return (0.1 * rng.standard_normal((2, SECONDS * RATE))).astype(np.float32), RATE


def frozen(folder: Path) -> Path:
    """Build a dataset version; return its manifest."""
    rows, splits = [], []
    for number in range(CLIPS):
        path = folder / f"{number}.mp4"
        path.touch()
        row = {"clip_id": str(number), "path": str(path), "shard": 0, "start": 0.0}
        row |= {"end": float(SECONDS), "duration": float(SECONDS), "sound": "unknown"}
        row |= {"fetch": "ok", "video": "ok", "audio": "ok", "tool": "", "decoder": ""}
        rows.append(row)
        splits.append({"split": "s", "clip_id": str(number), "captions": ["a"], "label": ""})
    index, ledger = folder / "shards" / "0.parquet", pd.DataFrame(rows)
    tar = index.with_suffix(".tar")
    write_parquet(
        index, build_shard(ledger, Cache(), tar, decode_audio=sound, decode_frames=frames)
    )
    freeze(ledger, pd.DataFrame(splits), [index], "checks-v1-000000", Cache(), folder)
    return folder / "manifest.json"


def seconds_per_sample(samples: ClipSamples) -> float:
    """CPU time of one pass over all clips, in batches."""
    begin = time.process_time()
    for start in range(0, CLIPS, BATCH):
        collate([samples[index] for index in range(start, start + BATCH)])
    return (time.process_time() - begin) / CLIPS


def main() -> None:
    """Measure and print."""
    set_threads(1)
    with tempfile.TemporaryDirectory() as home:
        manifest = frozen(Path(home))
        size = manifest.parent.joinpath("shards", "0.tar").stat().st_size / CLIPS / 1e6
        items = [(str(number), "a caption", "") for number in range(CLIPS)]
        kinds = {"unchecked": NEVER, f"one in {SAMPLED}": SAMPLED, "all": 1}
        sides = {
            name: ClipSamples(ClipCache(manifest, every), items, Inputs(max_frames=12), 0.5)
            for name, every in kinds.items()
        }
        times = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):
            for name, samples in sides.items():
                times[name].append(seconds_per_sample(samples))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    print(f"{CLIPS} clips of {size:.2f} MB; one thread, median of {ROUNDS} rounds")
    for name, found in medians.items():
        print(f"{name:10} {1e3 * found:6.2f} ms a sample, {found / medians['unchecked']:.3f}")


if __name__ == "__main__":
    main()
