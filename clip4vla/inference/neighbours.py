"""Nearest neighbours by dot product, in bounded memory."""

import numpy as np
import torch

from clip4vla.common.progress import track

CELLS = 1 << 24  # of one product: 64 MB
QUERIES = 1024  # most in one product
CANDIDATES = 8  # donors of a query that are compared again in float64


def nearest(
    queries: np.ndarray, donors: np.ndarray, most: int = QUERIES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest donor of every query [Q], and their products, float64 [Q].

    queries [Q, D], donors [N, D], N > 0, float32, finite (else ValueError); unit vectors make the
    product a cosine. Products in float32, whose last bits depend on block and library, find the
    candidates, which are compared in float64. Of equal donors the first wins. most: queries in one
    product; it changes the memory and nothing else.
    """
    for name, vectors in (("query", queries), ("donor", donors)):
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise ValueError(f"nearest: {name} {bad.argmax()} is not finite")
    # Copies, such as clips of black frames, would take the places of other candidates.
    firsts = np.sort(np.unique(donors, axis=0, return_index=True)[1])
    distinct = donors[firsts]
    most = max(1, min(most, CELLS // len(distinct)))
    index = np.empty(len(queries), dtype=np.int64)
    best = np.empty(len(queries))
    for start in track(range(0, len(queries), most), "find neighbours"):
        rows = slice(start, start + most)
        scores = torch.from_numpy(queries[rows]) @ torch.from_numpy(distinct).T  # [q, N]
        near = scores.topk(min(CANDIDATES, len(distinct))).indices.sort().values.numpy()
        products = (queries[rows, None].astype(np.float64) * distinct[near]).sum(axis=2)  # [q, 8]
        place = products.argmax(axis=1)[:, None]  # the first of equal ones
        index[rows] = firsts[np.take_along_axis(near, place, axis=1)[:, 0]]
        best[rows] = products.max(axis=1)
    return index, best
