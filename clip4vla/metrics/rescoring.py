"""Rescoring of similarities before ranking: candidates by a second score; extras of other papers.

The extras, dual softmax and reranking, are for columns of their own: dual softmax looks at all
other test queries, which a search engine does not have.
"""

from collections.abc import Iterator

import numpy as np

from clip4vla.metrics.retrieval import (
    QueryRanks,
    Similarity,
    clip_ranks,
    own_scores,
    pieces,
    text_ranks,
)

CANDIDATES = 50  # clips that are ranked again


def candidates(first: np.ndarray, top: int) -> np.ndarray:
    """Return where a similarity [n, m] is one of the `top` largest of its row, bool [n, m].

    Those as large as the last candidate are candidates too.
    """
    least_place = first.shape[1] - min(top, first.shape[1])
    chosen = np.empty(first.shape, dtype=bool)
    for rows, one in pieces(first):
        chosen[rows] = one >= np.partition(one, least_place, axis=1)[:, least_place, None]
    return chosen


def candidates_first(first: np.ndarray, second: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return an order float64 [n, m]: candidates by the second score, then the others by the first.

    first, second: [n, m], finite, where chosen, bool [n, m], is true for the second. Scores are
    replaced by their places among all, so that no sum can round two of them to a tie.
    """
    order = np.unique(first, return_inverse=True)[1].reshape(first.shape)
    order[chosen] = order.size + np.unique(second[chosen], return_inverse=True)[1]
    return order.astype(np.float64)


def dual_softmax(similarity: Similarity, targets: np.ndarray) -> tuple[QueryRanks, QueryRanks]:
    """Return ranks of both directions by s * softmax(s) over the other side (CAMoE, 2021).

    Text -> clip multiplies each similarity by the softmax over all queries of its clip, clip ->
    text by that over all clips of its text; similarities come with the run's scale. similarity:
    [Q, N], finite.
    """
    to_clip = clip_ranks(_TimesSoftmaxOverQueries(similarity), targets)
    return to_clip, text_ranks(_TimesSoftmaxOverClips(similarity), targets)


class _TimesSoftmaxOverQueries:
    """The similarity [Q, N] times its softmax over the queries of each clip."""

    def __init__(self, similarity: Similarity):
        self.similarity, self.shape = similarity, similarity.shape
        self.largest = np.full(self.shape[1], -np.inf)
        for _, piece in pieces(similarity):
            np.maximum(self.largest, piece.max(axis=0), out=self.largest)
        self.total = np.zeros(self.shape[1])
        for _, piece in pieces(similarity):
            self.total += np.exp(piece - self.largest).sum(axis=0)

    def blocks(self) -> Iterator[np.ndarray]:
        for _, piece in pieces(self.similarity):
            yield _times_share(piece, self.largest, self.total)

    def at(self, columns: np.ndarray) -> np.ndarray:
        own = own_scores(self.similarity, columns)
        return _times_share(own, self.largest[columns], self.total[columns])


class _TimesSoftmaxOverClips:
    """The similarity [Q, N] times its softmax over the clips of each query."""

    def __init__(self, similarity: Similarity):
        self.similarity, self.shape = similarity, similarity.shape
        self.largest, self.total = np.empty((2, self.shape[0]))
        for rows, piece in pieces(similarity):
            self.largest[rows] = piece.max(axis=1)
            self.total[rows] = np.exp(piece - self.largest[rows, None]).sum(axis=1)

    def blocks(self) -> Iterator[np.ndarray]:
        for rows, piece in pieces(self.similarity):
            yield _times_share(piece, self.largest[rows, None], self.total[rows, None])

    def at(self, columns: np.ndarray) -> np.ndarray:
        return _times_share(own_scores(self.similarity, columns), self.largest, self.total)


def _times_share(scores: np.ndarray, largest: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return s * softmax(s) in float64: in float32 small shares would tie."""
    shares = np.exp(scores - largest)
    shares /= total
    shares *= scores
    return shares


def reranked(
    first: Similarity, second: Similarity, targets: np.ndarray, top: int = CANDIDATES
) -> QueryRanks:
    """Return text -> clip ranks with the `top` clips of one similarity reranked by another.

    first, second: [Q, N], finite. Clips as similar as the last candidate are candidates too; the
    others keep their order behind them. (`sim_rerank` in the released code, unused there.)
    """
    better, least = np.empty((2, len(targets)), dtype=np.int64)
    for (rows, one), (_, two) in zip(pieces(first), pieces(second), strict=True):
        own = targets[rows]
        chosen = candidates(one, top)
        again = own_scores(chosen, own)[:, None]  # whether the right clip is a candidate
        by = np.where(again, two, one)
        rivals = np.where(again, chosen, True)
        mine = own_scores(by, own)[:, None]
        better[rows] = ((by > mine) & rivals).sum(axis=1)
        least[rows] = ((by >= mine) & rivals).sum(axis=1)
    return QueryRanks(1 + better, least, np.ones_like(better))
