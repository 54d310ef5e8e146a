"""How long a query takes as an index grows: exact, against a product in memory and approximate.

    python benchmarks/search.py [--windows 100000] [--exact-only]

Vectors are made up: windows are of topics, and the picture, the sound and the words of a topic are
near to its centre, words further than the others (cosines about 0.3, as of CLIP). They are written,
read and ranked by the code of `clip4vla index` and `search`, without its towers, whose time does
not depend on the size of an index. Exact queries are compared with a product of all vectors in
memory, for a quarter, a half and all of the windows; approximate ones with exact ones.
"""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import bench
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


def near(centres, noise, rng):
    """Return unit vectors about centres."""
    drawn = rng.standard_normal(centres.shape, dtype=np.float32) * (noise / np.sqrt(WIDTH))
    vectors = centres + drawn
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def fill(store, centres, rows, rng):
    """Append windows, a fifth of them without sound.

    Returns their vectors [rows, 2 * WIDTH], and the seconds of CPU of writing them.
    """
    added, seconds = [], 0.0
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
        began = time.process_time()
        store.add_windows(windows, feature_table(features, None))
        seconds += time.process_time() - began
        added.append(np.concatenate([features["vision"], features["audio"]], axis=1))
    began = time.process_time()
    store.tidy()
    return np.concatenate(added), seconds + time.process_time() - began


def index_of(store):
    """Return an index without a checkpoint."""
    index, cpu = Index.__new__(Index), torch.device("cpu")
    index.store, index.table = store, store.windows
    model = SimpleNamespace(compare=similarities, compared_on=lambda device: cpu)
    index.encoder = SimpleNamespace(
        ranker=PooledScorer(model), shares=(0.5,), embedder=SimpleNamespace(device=cpu)
    )
    return index


def queries(index, texts, exact):
    """A side: the windows that each query finds."""

    def asked():
        parts = [TextPart(index.encoder.ranker, {"text": text[None]}, None, 0.5) for text in texts]
        return [{row for row, _ in ranked(index, [part], TOP, exact)} for part in parts]

    return asked


def in_memory(vectors, texts):
    """A side: the mean of both products, or the one of pictures, and the first windows."""
    doubled, parts = torch.cat([texts, texts], dim=1).numpy(), 1 + vectors[:, WIDTH:].any(axis=1)
    return lambda: [np.argpartition(-(vectors @ text) / parts, TOP)[:TOP] for text in doubled]


def missed(ours, product, numbers):
    """State how many of the first windows of the product ours lacks: only nearly equal ones.

    numbers: of all windows, as the index has them, in the order of the product.
    """
    pairs = zip(ours.result, product.result, strict=True)
    count = sum(len(set(numbers[best]) - found) for found, best in pairs)
    return bench.agreed(f"of {QUERIES * TOP} windows differ:", count, QUERIES * TOP / 50)


def parser():
    made = bench.parser(__doc__, rounds=3)
    made.add_argument("--windows", type=int, default=100_000)
    made.add_argument("--exact-only", action="store_true", help="without vector indexes")
    return made


def rows(options):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((TOPICS, WIDTH), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    texts, total = near(centres[:QUERIES], FAR, rng), options.windows
    common = {"options": options, "per": QUERIES}
    with tempfile.TemporaryDirectory() as folder:
        store, vectors = Store(Path(folder), create=True), np.empty((0, 2 * WIDTH), np.float32)
        for size in (total // 4, total // 2, total):
            added, seconds = fill(store, centres, size - len(vectors), rng)
            vectors, written = np.concatenate([vectors, added]), 1e6 * seconds / len(added)
            numbers = np.sort(store.windows.search().select(["row"]).to_arrow()["row"].to_numpy())
            exact = queries(index_of(store), texts, exact=True)
            yield bench.compare(
                f"an exact query of {size:,} windows",
                exact,
                in_memory(vectors, texts),
                against="a product in memory",
                note=lambda *sides, written=written, numbers=numbers: (
                    f"{missed(*sides, numbers)}; written in {written:.0f} µs of CPU a window"
                ),
                **common,
            )
        if options.exact_only:
            return
        approximate.EXACT_ROWS, began = 0, time.process_time()
        approximate.index_vectors(store.windows)
        made = time.process_time() - began

        def recall(ours, exact):
            hits = sum(len(a & b) for a, b in zip(ours.result, exact.result, strict=True))
            found = 100 * hits / sum(map(len, exact.result))
            return f"finds {found:.0f} % of the exact first {TOP}; indexes: {made:.0f} s of CPU"

        yield bench.compare(
            f"an approximate query of {total:,} windows",
            queries(index_of(store), texts, exact=False),
            exact,
            against="exact",
            note=recall,
            **common,
        )


if __name__ == "__main__":
    bench.main(parser(), rows)
