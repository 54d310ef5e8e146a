"""Ranks of text -> clip and clip -> text retrieval, several captions per clip.

Ranks are counts of better and of equal similarities, so nothing is sorted. Ties are handled in
`recalls.py`. A matrix [Q, N] is compared a few rows at a time: only the matrix itself is large.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clip4vla.common.errors import UserError

CELLS = 1 << 20  # compared at once


class QueryRanks(NamedTuple):
    """Ranks of n answers, from 1. Equal similarities leave a range: best and worst are its ends.

    best, worst: int [n]; worst - best others are as similar as the answer. copies: int [n], the
    number of right answers with that similarity (captions of one clip may be equal); the first
    one counts.
    """

    best: np.ndarray
    worst: np.ndarray
    copies: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """Return the expected rank [n] of the first right answer when ties are random."""
        return self.best + (self.worst - self.best) / (self.copies + 1)

    @property
    def tied(self) -> int:
        """Return the number of answers whose similarity a wrong one shares."""
        return int((self.worst > self.best).sum())


def retrieval_ranks(
    similarity: np.ndarray,
    targets: np.ndarray,
    clip_ids: list[str],
    top: int = 5,
    backward: np.ndarray | None = None,
) -> tuple[QueryRanks, QueryRanks, np.ndarray]:
    """Return ranks of both directions, and the best clips of each query.

    similarity: [Q, N]. targets [Q]: the clip (column) of each query. Clips without a query are
    distractors. Returned are text -> clip ranks [Q]; clip -> text ranks of the clips that have a
    query, in the order of columns, where a clip's best caption counts and its competitors are the
    captions of other clips; the columns of the `top` best clips [Q, top], ties in the order of
    columns. backward [Q, N]: by which clip -> text is ranked, if by another similarity. Raises
    UserError, with the clip, for a similarity that is not finite.
    """
    check_finite(similarity, targets, clip_ids)
    best, back = best_columns(similarity, top), similarity if backward is None else backward
    return clip_ranks(similarity, targets), text_ranks(back, targets), best


def clip_ranks(similarity: np.ndarray, targets: np.ndarray) -> QueryRanks:
    """Return text -> clip ranks [Q]; similarity [Q, N], finite."""
    own = own_scores(similarity, targets)[:, None]
    better, least = np.empty((2, len(own)), dtype=np.int64)
    for rows in pieces(similarity):
        better[rows] = (similarity[rows] > own[rows]).sum(axis=1)
        least[rows] = (similarity[rows] >= own[rows]).sum(axis=1)
    return QueryRanks(best=1 + better, worst=least, copies=np.ones_like(better))


def text_ranks(similarity: np.ndarray, targets: np.ndarray) -> QueryRanks:
    """Return clip -> text ranks of the clips that have a query; similarity [Q, N], finite."""
    own, n_clips = own_scores(similarity, targets), similarity.shape[1]
    own_best = np.full(n_clips, -np.inf, dtype=own.dtype)
    np.maximum.at(own_best, targets, own)
    asked = np.bincount(targets, minlength=n_clips) > 0
    # A clip's own captions never exceed its best one; those that equal it are subtracted.
    copies = np.bincount(targets[own == own_best[targets]], minlength=n_clips)
    better, least = np.zeros((2, n_clips), dtype=np.int64)
    for rows in pieces(similarity):
        better += (similarity[rows] > own_best).sum(axis=0)
        least += (similarity[rows] >= own_best).sum(axis=0)
    best = 1 + better
    worst = best + least - better - copies
    return QueryRanks(best=best[asked], worst=worst[asked], copies=copies[asked])


def own_scores(similarity: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the similarity of each query with its own clip [Q]."""
    return similarity[np.arange(len(similarity)), targets]


def best_columns(similarity: np.ndarray, top: int) -> np.ndarray:
    """Return the columns of the `top` largest of each row [Q, top], ties in their order."""
    number, top = similarity.shape[1], min(top, similarity.shape[1])
    found = np.empty((len(similarity), top), dtype=np.int64)
    for piece in pieces(similarity) if top else ():
        block = similarity[piece]
        bound = np.partition(block, number - top, axis=1)[:, number - top]
        rows, columns = np.nonzero(block >= bound[:, None])
        order = np.lexsort((columns, -block[rows, columns], rows))
        first = np.searchsorted(rows, np.arange(len(block)))  # of each row, at least `top` of which
        found[piece] = columns[order[first[:, None] + np.arange(top)]]
    return found


def pieces(similarity: np.ndarray) -> Iterator[slice]:
    """Split the rows of a matrix into pieces of about `CELLS` cells."""
    size = max(1, CELLS // max(1, similarity.shape[1]))
    return (slice(i, i + size) for i in range(0, len(similarity), size))


def check_finite(similarity: np.ndarray, targets: np.ndarray, clip_ids: list[str]) -> None:
    """Raise UserError, with the clip, for a similarity that is not finite."""
    finite = np.isfinite(similarity)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise UserError(
            f"clip {clip_ids[column]} and query {row} (of clip {clip_ids[targets[row]]}): their "
            "similarity is not finite: the weights or the clip's features are corrupt. Fix: check "
            "the training curve, and run `clip4vla data verify`"
        )
