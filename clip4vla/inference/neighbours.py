"""Exact nearest neighbours by dot product, in bounded memory, the same for any blocks and order.

Float32 products find candidates, whose dot products are then computed exactly. A product's last
bits depend on the shape of its block and on the library; what is kept here does not.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from clip4vla.common.progress import track
from clip4vla.common.seeds import generator

QUERIES, DONORS = 1024, 8192  # in one product: 32 MB of scores


def nearest(
    queries: np.ndarray, donors: np.ndarray, block: tuple[int, int] = (QUERIES, DONORS)
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest donor of every query [Q], and their dot product, float64 [Q].

    queries [Q, D], donors [N, D], N > 0, float32, finite (else ValueError); unit vectors make the
    product a cosine. It is the exact product of the given vectors, rounded once; of equal ones the
    first wins. block: queries and donors in one product; it changes the memory and nothing else.
    """
    for name, vectors in (("query", queries), ("donor", donors)):
        _check(name, vectors)
    index = np.full(len(queries), -1, dtype=np.int64)
    best = np.full(len(queries), -np.inf)
    firsts = _distinct(donors)
    parts = range(0, len(firsts), block[1])
    longest = _norms(queries)
    scores = torch.empty(block[0] * block[1])  # of one product: fresh memory for each costs a sixth
    for start in track(parts, "find neighbours") if len(queries) else ():
        places = firsts[start : start + block[1]]
        some = donors[places[0] : places[-1] + 1]
        if len(some) != len(places):
            some = donors[places]
        slack = _error(donors.shape[1]) * longest * _norms(some).max()  # [Q], of one product
        for first in range(0, len(queries), block[0]):
            rows = slice(first, first + block[0])
            _improve(
                queries[rows],
                some,
                places,
                slack=slack[rows],
                best=best[rows],
                index=index[rows],
                scores=scores,
            )
    return index, best


def _improve(
    queries: np.ndarray,
    donors: np.ndarray,
    places: np.ndarray,
    slack: np.ndarray,
    best: np.ndarray,
    index: np.ndarray,
    scores: torch.Tensor,
) -> None:
    """Put into `best` and `index` [q] what these donors have that is better or as good and earlier.

    slack [q]: how far a float32 product can be from the exact one; scores: where to put products.
    """
    scores = scores[: len(queries) * len(donors)].view(len(queries), len(donors))
    torch.mm(torch.from_numpy(queries), torch.from_numpy(donors).T, out=scores)
    highest = scores.amax(dim=1).numpy().astype(np.float64)
    open_ = np.flatnonzero(highest + slack >= best)
    limit = np.maximum(highest - 2 * slack, best - slack)
    for row in open_:
        for column in np.flatnonzero(scores[row].numpy() >= limit[row]):
            value = math.fsum((queries[row].astype(np.float64) * donors[column]).tolist())
            if (value, -places[column]) > (best[row], -index[row]):
                best[row], index[row] = value, places[column]


def _error(dim: int) -> float:
    """Largest error of a float32 dot product of unit vectors, whatever the order of its sums."""
    unit = 2.0**-24
    return dim * unit / (1 - dim * unit)


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


def _distinct(vectors: np.ndarray) -> np.ndarray:
    """Indices of the rows but copies of earlier ones, in order: copies are compared once.

    Rows of one hash are compared; a row that only collides with another stays.
    """
    factors = generator("copies of vectors").integers(2**64, size=vectors.shape[1], dtype=np.uint64)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for rows in _parts(len(vectors), 256):  # a part stays in the cache
        words = np.ascontiguousarray(vectors[rows]).view(np.uint32)
        hashes[rows] = (words * factors).sum(axis=1)  # modulo 2^64
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[group] != np.arange(len(vectors)))
    kept = np.ones(len(vectors), dtype=bool)
    for rows in _parts(len(later), DONORS):
        own, earlier = later[rows], first[group[later[rows]]]
        kept[own] = (vectors[own] != vectors[earlier]).any(axis=1)
    return np.flatnonzero(kept)


def _parts(number: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, number, size))


def _check(name: str, vectors: np.ndarray) -> None:
    for rows in _parts(len(vectors), 256):
        bad = ~np.isfinite(vectors[rows]).all(axis=1)
        if bad.any():
            raise ValueError(f"nearest: {name} {rows.start + int(bad.argmax())} is not finite")
