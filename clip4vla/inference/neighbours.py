"""Nearest neighbours by dot product, in bounded memory."""

import numpy as np
import torch
from torch.nn.functional import linear

from clip4vla.common.onednn import packed
from clip4vla.common.progress import track

QUERIES = 1024  # most in one product
DONORS = 768  # in one product, which then stays in the processor's cache
PAIRS = 1 << 14  # pairs, or rows, of vectors that are looked at together


def nearest(
    queries: np.ndarray, donors: np.ndarray, most: int = QUERIES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the nearest donor of every query [Q], and their products, float64 [Q].

    queries [Q, D], donors [N, D], N > 0, float32, whose squares are finite (else ValueError); unit
    vectors make the product a cosine. Products in float32 leave the donors that are within its
    rounding of the best one, which are compared in float64. Of equal donors the first wins, which
    to a query of zeros are all. most: queries in one product; it changes the memory and nothing
    else.
    """
    lengths = {}
    lost = queries.shape[1] * np.finfo(np.float32).tiny  # of a sum, by terms that are below `tiny`
    for name, vectors in (("query", queries), ("donor", donors)):
        lengths[name] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors) + lost)
        bad = ~np.isfinite(lengths[name])
        if bad.any():
            raise ValueError(f"nearest: {name} {bad.argmax()} is not finite, or its square is not")
    # Two products of a query can change places by so much, because they are rounded to float32.
    rounding = 2 * queries.shape[1] * np.finfo(np.float32).eps
    slack = rounding * lengths["donor"].max() * lengths["query"] + 2 * lost
    blank = torch.from_numpy(np.logical_not(queries.any(axis=1)))
    firsts = _first_of_equal(donors)  # copies, such as clips of black frames, would all be compared
    distinct = donors[firsts] if len(firsts) < len(donors) else donors
    most = max(1, min(most, len(queries)))
    index = np.empty(len(queries), dtype=np.int64)
    best = np.full(len(queries), -np.inf)
    for start in track(range(0, len(queries), most), "find neighbours"):
        some = queries[start : start + most]
        asking = packed(_tensor(some))
        highest = np.full(len(some), -np.inf, dtype=np.float32)
        candidates, count = [], 0  # compared as late as memory allows, when few are left
        for first in range(0, len(distinct), DONORS):
            part = _tensor(distinct[first : first + DONORS])
            scores = linear(asking, part).to_dense()  # on OMP_NUM_THREADS, which Snakemake sets
            if first == 0:
                scores[blank[start : start + most], 0] = 1.0  # else all donors would be compared
            found, tops = scores.numpy(), scores.amax(dim=1).numpy()
            np.maximum(highest, tops, out=highest)
            enough = highest - slack[start : start + most]
            able = np.flatnonzero(tops >= enough)  # in the k-th part, about 1/k of the queries
            rows, near = np.divmod(np.flatnonzero(found[able] >= enough[able, None]), len(part))
            candidates.append((able[rows], first + near, found[able[rows], near]))
            count += len(rows)
            del scores, found  # the next ones take their place
            if first + DONORS < len(distinct) and count < PAIRS:
                continue
            rows, near, score = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
            still = score >= enough[rows]
            rows, near = rows[still], near[still]
            candidates, count = [], 0
            products = _products(some, rows, distinct, near)
            order = np.lexsort((near, -products, rows))
            asked, place = np.unique(rows[order], return_index=True)
            nearest_ones = order[place]  # for some of the queries
            better = products[nearest_ones] > best[start + asked]
            nearest_ones, asked = nearest_ones[better], start + asked[better]
            index[asked] = firsts[near[nearest_ones]]
            best[asked] = products[nearest_ones]
    return index, best


def _tensor(vectors: np.ndarray) -> torch.Tensor:
    """Return a copy, which may be made of what torch cannot share, such as a read-only file."""
    return torch.from_numpy(vectors.copy())


def _first_of_equal(vectors: np.ndarray) -> np.ndarray:
    """Return the first row of each kind, in order; more if two kinds should share a hash."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    ends = bits[:, 0].astype(np.uint64) << np.uint64(32) | bits[:, -1]
    ordered = np.sort(ends)
    alike = np.flatnonzero(np.isin(ends, ordered[1:][ordered[1:] == ordered[:-1]]))
    if not len(alike):  # the ends of unlike vectors seldom are
        return np.arange(len(bits))
    factors = np.random.default_rng(0).integers(1 << 63, size=bits.shape[1], dtype=np.uint64)
    blocks = [slice(start, start + PAIRS) for start in range(0, len(alike), PAIRS)]
    hashes = np.concatenate([bits[alike[block]].astype(np.uint64) @ factors for block in blocks])
    _, firsts, kind = np.unique(hashes, return_index=True, return_inverse=True)
    first_of = alike[firsts[kind]]
    if not all(np.array_equal(bits[alike[block]], bits[first_of[block]]) for block in blocks):
        return np.arange(len(bits))
    return np.setdiff1d(np.arange(len(bits)), alike[alike != first_of])


def _products(
    queries: np.ndarray, rows: np.ndarray, donors: np.ndarray, near: np.ndarray
) -> np.ndarray:
    """Return the products of pairs of a query and a donor, float64."""
    products = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        products[part] = (queries[rows[part]].astype(np.float64) * donors[near[part]]).sum(axis=1)
    return products
