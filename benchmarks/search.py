"""How long a query takes, and how much memory, as an index grows; exact against approximate.

    python benchmarks/search.py [--rows 100000]

Vectors are made up: windows are of topics, and the picture, the sound and the words of a topic are
near to its centre, words further than the others (cosines about 0.3, as of CLIP). They are written,
read and ranked by the code of `clip4vla index` and `search`, without its towers, whose time does
not depend on the size of an index. Tables of a quarter, a half and all of the rows give the slope,
from which 10 million rows are extrapolated. Times are wall and CPU, medians of the queries.
"""

import argparse
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from clip4vla.models.common.scorer import PooledScorer
from clip4vla.models.common.similarity import similarities
from clip4vla.search import approximate
from clip4vla.search.comparing import TextPart
from clip4vla.search.index import Index
from clip4vla.search.query import ranked
from clip4vla.search.store import Store, feature_table

WIDTH, TOPICS, COMMIT, QUERIES, TOP = 512, 2000, 5000, 10, 10
NEAR, FAR = 1.0, 3.0  # noise of windows and of words, in lengths of a centre
THUMBNAIL = bytes(3000)
MILLIONS = 10_000_000


def near(centres, noise, rng):
    """Return unit vectors about centres."""
    drawn = rng.standard_normal(centres.shape, dtype=np.float32) * (noise / np.sqrt(WIDTH))
    vectors = centres + drawn
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def fill(store, centres, rows, rng):
    """Append windows; a fifth of them have no sound."""
    for start in range(0, rows, COMMIT):
        topics = centres[rng.integers(TOPICS, size=min(COMMIT, rows - start))]
        features = {"vision": near(topics, NEAR, rng), "audio": near(topics, NEAR, rng)}
        features["audio"][::5] = 0
        windows = [
            {
                "path": f"{start}.mp4",
                "number": number,
                "start": 10.0 * number,
                "end": 10.0 * number + 10,
                "has_picture": True,
                "has_sound": number % 5 > 0,
                "thumbnail": THUMBNAIL,
            }
            for number in range(len(topics))
        ]
        store.add_windows(windows, feature_table(features, None))
    store.tidy()


def index_of(store):
    """Return an index without a checkpoint."""
    index, cpu = Index.__new__(Index), torch.device("cpu")
    index.store, index.table = store, store.windows
    model = SimpleNamespace(compare=similarities, compared_on=lambda device: cpu)
    index.encoder = SimpleNamespace(
        ranker=PooledScorer(model), shares=(0.5,), embedder=SimpleNamespace(device=cpu)
    )
    return index


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def queries(index, texts, exact):
    """Return the rows that each query finds, and the median wall and CPU seconds."""
    found, walls, cpus = [], [], []
    for text in texts:
        part = TextPart(index.encoder.ranker, {"text": text[None]}, None, 0.5)
        best, wall, cpu = timed(lambda part=part: ranked(index, [part], TOP, exact))
        found.append({row for row, _ in best})
        walls.append(wall)
        cpus.append(cpu)
    return found, statistics.median(walls), statistics.median(cpus)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((TOPICS, WIDTH), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    texts = near(centres[:QUERIES], FAR, rng)
    print(", ".join(f"{name} {version(name)}" for name in ("lancedb", "torch", "pyarrow")))
    with tempfile.TemporaryDirectory() as folder:
        store, sizes, exact = Store(Path(folder), create=True), [rows // 4, rows // 2, rows], []
        before = 0
        for size in sizes:
            _, wall, cpu = timed(lambda n=size - before: fill(store, centres, n, rng))
            print(f"{size:,} windows: {size - before:,} written in {wall:.1f} s ({cpu:.1f} s CPU)")
            before, base = size, peak()
            found, wall, cpu = queries(index_of(store), texts, exact=True)
            exact.append((wall, cpu))
            print(
                f"  exact: {1000 * wall:.0f} ms a query ({1000 * cpu:.0f} ms CPU), memory "
                f"{base:.0f} -> {peak():.0f} MiB"
            )
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        print(f"  {disk / rows:.0f} bytes a window on disk")
        for name, of in (("wall", 0), ("CPU", 1)):
            slope = (exact[-1][of] - exact[0][of]) / (sizes[-1] - sizes[0])
            print(f"  exact, {name}: {slope * MILLIONS:.1f} s at 10 M, extrapolated from the slope")
        approximate.EXACT_ROWS, base = 0, peak()
        _, wall, cpu = timed(lambda: approximate.index_vectors(store.windows))
        print(f"vector indexes: made in {wall:.0f} s ({cpu:.0f} s CPU), peak {peak():.0f} MiB")
        near_ones, wall, cpu = queries(index_of(store), texts, exact=False)
        hits = sum(len(a & b) for a, b in zip(found, near_ones, strict=True))
        recall = hits / sum(map(len, found))
        print(
            f"  approximate: {1000 * wall:.0f} ms a query ({1000 * cpu:.0f} ms CPU), "
            f"{100 * recall:.0f} % of the exact first {TOP}"
        )
        larger = disk + sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        print(f"  vector indexes: {(larger - 2 * disk) / rows:.0f} bytes a window")


if __name__ == "__main__":
    main()
