"""Ranks of text -> clip and clip -> text retrieval, several captions per clip.

Ranks are counts of better and of equal similarities, so nothing is sorted. Ties are handled in
`recalls.py`. Similarities [Q, N] are compared a few rows at a time: a matrix of them, or blocks of
rows that are made whenever they are read, so that no matrix is in memory.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from clip4vla.common.errors import UserError

CELLS = 1 << 18  # compared at once: they stay in the processor's cache
MOST_ROWS = 255  # compared at once: columns are counted in 8 bits
STRIPES = 16  # parts of a row, of which the largest bound the best columns


class Blocks(Protocol):
    """Similarities [Q, N] that are made whenever they are read, each time the same."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (Q, N)."""
        ...

    def blocks(self) -> Iterable[np.ndarray]:
        """Yield all rows in order, in blocks [q, N]."""
        ...

    def at(self, columns: np.ndarray) -> np.ndarray:
        """Return one cell of each row [Q]; columns: int [Q]."""
        ...


Similarity = np.ndarray | Blocks


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
    similarity: Similarity,
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
    number, n_clips = similarity.shape
    own = own_scores(similarity, targets)
    clips, texts = ClipCounts(own), TextCounts(own, targets, n_clips)
    best = np.empty((number, min(top, n_clips)), dtype=np.int64)
    for rows, piece in pieces(similarity):
        check_finite(piece, targets, clip_ids, rows.start)
        best[rows] = best_columns(piece, top)
        clips.add(rows, piece)
        if backward is None:
            texts.add(piece)
    back = texts.ranks() if backward is None else text_ranks(backward, targets)
    return clips.ranks(), back, best


class ClipCounts:
    """Counts of better and equal clips of each query. own [Q]: similarity with its own clip."""

    def __init__(self, own: np.ndarray):
        self.own = own
        self.better, self.least = np.zeros((2, len(own)), dtype=np.int64)

    def add(self, rows: slice, piece: np.ndarray) -> None:
        """Count in these rows, [q, N]."""
        own = self.own[rows, None]
        self.better[rows] = np.count_nonzero(piece > own, axis=1)
        self.least[rows] = np.count_nonzero(piece >= own, axis=1)

    def ranks(self) -> QueryRanks:
        """Return the ranks [Q] after all rows."""
        return QueryRanks(1 + self.better, self.least, np.ones_like(self.better))


class TextCounts:
    """Counts of better and equal queries of each clip, by its best one.

    own [Q]: similarity of each query with its own clip, `targets`.
    """

    def __init__(self, own: np.ndarray, targets: np.ndarray, n_clips: int):
        self.best = np.full(n_clips, -np.inf, dtype=own.dtype)
        with np.errstate(invalid="ignore"):  # who adds rows refuses what is not finite
            np.maximum.at(self.best, targets, own)
        self.asked = np.bincount(targets, minlength=n_clips) > 0
        # A clip's own captions never exceed its best one; those that equal it are subtracted.
        self.copies = np.bincount(targets[own == self.best[targets]], minlength=n_clips)
        self.better, self.least = np.zeros((2, n_clips), dtype=np.int64)

    def add(self, piece: np.ndarray) -> None:
        """Count in some rows, [q, N], at most MOST_ROWS."""
        self.better += _column_counts(piece > self.best)
        self.least += _column_counts(piece >= self.best)

    def ranks(self) -> QueryRanks:
        """Return the ranks of the clips that have a query, after all rows."""
        worst = 1 + self.least - self.copies
        ranks = QueryRanks(best=1 + self.better, worst=worst, copies=self.copies)
        return QueryRanks(*(column[self.asked] for column in ranks))


def _column_counts(chosen: np.ndarray) -> np.ndarray:
    return np.add.reduce(chosen.view(np.uint8), axis=0, dtype=np.uint8)


def clip_ranks(similarity: Similarity, targets: np.ndarray) -> QueryRanks:
    """Return text -> clip ranks [Q]; similarity [Q, N], finite."""
    counts = ClipCounts(own_scores(similarity, targets))
    for rows, piece in pieces(similarity):
        counts.add(rows, piece)
    return counts.ranks()


def text_ranks(similarity: Similarity, targets: np.ndarray) -> QueryRanks:
    """Return clip -> text ranks of the clips that have a query; similarity [Q, N], finite."""
    counts = TextCounts(own_scores(similarity, targets), targets, similarity.shape[1])
    for _, piece in pieces(similarity):
        counts.add(piece)
    return counts.ranks()


def own_scores(similarity: Similarity, targets: np.ndarray) -> np.ndarray:
    """Return the similarity of each query with its own clip [Q]."""
    if isinstance(similarity, np.ndarray):
        return similarity[np.arange(len(similarity)), targets]
    return similarity.at(targets)


def best_columns(piece: np.ndarray, top: int) -> np.ndarray:
    """Return the columns of the `top` largest of each row [q, top], ties in their order."""
    number, top = piece.shape[1], min(top, piece.shape[1])
    if not top:
        return np.empty((len(piece), 0), dtype=np.int64)
    largest, stripe = piece, number // STRIPES
    if stripe >= top:  # as many of the row are as large as the `top`th of the largest of stripes
        largest = piece[:, :stripe].copy()
        for start in range(stripe, number - stripe + 1, stripe):
            np.maximum(largest, piece[:, start : start + stripe], out=largest)
    bound = np.partition(largest, largest.shape[1] - top, axis=1)[:, -top]
    rows, columns = np.divmod(np.flatnonzero(piece >= bound[:, None]), number)
    order = np.lexsort((columns, -piece[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(piece)))  # of each row, at least `top` of which
    return columns[order[first[:, None] + np.arange(top)]]


def pieces(similarity: Similarity) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield all rows in order, as (rows, similarities [q, N]) of about `CELLS` cells."""
    start, size = 0, min(MOST_ROWS, max(1, CELLS // max(1, similarity.shape[1])))
    whole = [similarity] if isinstance(similarity, np.ndarray) else similarity.blocks()
    for block in whole:
        for first in range(0, len(block), size):
            piece = block[first : first + size]
            yield slice(start + first, start + first + len(piece)), piece
        start += len(block)


def check_finite(
    similarity: np.ndarray, targets: np.ndarray, clip_ids: list[str], first: int = 0
) -> None:
    """Raise UserError, with the clip, for a similarity that is not finite.

    first: the number of the first row.
    """
    finite = np.isfinite(similarity)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        row += first
        raise UserError(
            f"clip {clip_ids[column]} and query {row} (of clip {clip_ids[targets[row]]}): their "
            "similarity is not finite: the weights or the clip's features are corrupt. Fix: check "
            "the training curve, and run `clip4vla data verify`"
        )
