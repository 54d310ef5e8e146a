"""Nearest neighbours by dot product, in bounded memory."""

import numpy as np

from clip4vla.common.progress import track

CELLS = 1 << 24  # of one product: 64 MB
QUERIES = 1024  # most in one product
PAIRS = 1 << 14  # pairs, or rows, of vectors that are looked at together


def nearest(
    queries: np.ndarray, donors: np.ndarray, most: int = QUERIES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest donor of every query [Q], and their products, float64 [Q].

    queries [Q, D], donors [N, D], N > 0, float32, finite (else ValueError); unit vectors make the
    product a cosine. Products in float32 leave the donors that are within its rounding of the best
    one, which are compared in float64; to a query of zeros these are all. Of equal donors the first
    wins. most: queries in one product; it changes the memory and nothing else.
    """
    for name, vectors in (("query", queries), ("donor", donors)):
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise ValueError(f"nearest: {name} {bad.argmax()} is not finite")
    firsts = _first_of_equal(donors)  # copies, such as clips of black frames, would all be compared
    distinct = donors[firsts] if len(firsts) < len(donors) else donors
    slack = _rounding(queries, distinct)
    most = max(1, min(most, CELLS // len(distinct)))
    scores = np.empty((min(most, len(queries)), len(distinct)), dtype=np.float32)
    index = np.empty(len(queries), dtype=np.int64)
    best = np.empty(len(queries))
    for start in track(range(0, len(queries), most), "find neighbours"):
        some = queries[start : start + most]
        found = scores[: len(some)]
        np.matmul(some, distinct.T, out=found)  # on OMP_NUM_THREADS, which Snakemake sets
        enough = found.max(axis=1) - slack[start : start + most]
        rows, near = np.divmod(np.flatnonzero(found >= enough[:, None]), len(distinct))
        products = _products(some, rows, distinct, near)
        order = np.lexsort((near, -products, rows))  # of each query, the first is the nearest
        nearest_ones = order[np.searchsorted(rows, np.arange(len(some)))]
        index[start : start + most] = firsts[near[nearest_ones]]
        best[start : start + most] = products[nearest_ones]
    return index, best


def _first_of_equal(vectors: np.ndarray) -> np.ndarray:
    """Return the first row of each kind, in order; all rows if two kinds should share a hash."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    factors = np.random.default_rng(0).integers(1 << 63, size=bits.shape[1], dtype=np.uint64)
    blocks = [slice(start, start + PAIRS) for start in range(0, len(bits), PAIRS)]
    hashes = np.concatenate([bits[block].astype(np.uint64) @ factors for block in blocks])
    _, firsts, kind = np.unique(hashes, return_index=True, return_inverse=True)
    if not all(np.array_equal(bits[block], bits[firsts[kind[block]]]) for block in blocks):
        return np.arange(len(bits))
    return np.sort(firsts)


def _rounding(queries: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Return how far two products of a query can change places by rounding to float32, [Q]."""
    longest = np.sqrt(np.einsum("nd,nd->n", donors, donors).max())
    share = 2 * queries.shape[1] * np.finfo(np.float32).eps
    return share * longest * np.sqrt(np.einsum("qd,qd->q", queries, queries))


def _products(
    queries: np.ndarray, rows: np.ndarray, donors: np.ndarray, near: np.ndarray
) -> np.ndarray:
    """Return the products of pairs of a query and a donor, float64."""
    products = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        products[part] = (queries[rows[part]].astype(np.float64) * donors[near[part]]).sum(axis=1)
    return products
