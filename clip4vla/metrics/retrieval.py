"""Ranks of text -> clip and clip -> text retrieval, several captions per clip, in bounded memory.

A similarity matrix [Q, N] comes in blocks of rows and is never kept whole. Ranks are counts of
better and of equal similarities, so nothing is sorted. Ties are handled in `recalls.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from clip4vla.common.errors import UserError

Blocks = Callable[[], Iterable[np.ndarray]]
CELLS = 1 << 16  # compared at once, so that they stay in the cache of a core


class Ranks(NamedTuple):
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


def blocks_of(similarity: np.ndarray, size: int = 1024) -> Blocks:
    """Split the rows of a similarity matrix [Q, N] into blocks."""
    return lambda: (similarity[i : i + size] for i in range(0, len(similarity), size))


def retrieval_ranks(
    blocks: Blocks, targets: np.ndarray, clip_ids: list[str], top: int = 5
) -> tuple[Ranks, Ranks, np.ndarray]:
    """Return ranks of both directions, and the best clips of each query.

    blocks: called twice, yields the rows of the similarity matrix [Q, N] in order, the same values
    each time. targets [Q]: the clip (column) of each query. Clips without a query are distractors.
    Returned are text -> clip ranks [Q]; clip -> text ranks of the clips that have a query, in the
    order of columns, where a clip's best caption counts and its competitors are the captions of
    other clips; the columns of the `top` best clips [Q, top], ties in the order of columns.
    Raises UserError, with the clip, for a similarity that is not finite.
    """
    to_clip, own, best_columns = clip_ranks(_checked(blocks, targets, clip_ids), targets, top)
    return to_clip, text_ranks(blocks(), targets, own, len(clip_ids)), best_columns


def clip_ranks(
    blocks: Iterable[np.ndarray], targets: np.ndarray, top: int = 0
) -> tuple[Ranks, np.ndarray, np.ndarray]:
    """Return text -> clip ranks [Q], similarities with the own clip [Q], and the top columns.

    blocks: the rows of [Q, N], finite.
    """
    parts: dict[str, list[np.ndarray]] = {"better": [], "least": [], "own": [], "best": []}
    start = 0
    for block in blocks:
        own = block[np.arange(len(block)), targets[start : start + len(block)]]
        start += len(block)
        better, least = np.empty((2, len(block)), dtype=np.int64)
        for rows in _pieces(block):
            limit = own[rows, None]
            better[rows] = _count_rows(block[rows] > limit)
            least[rows] = _count_rows(block[rows] >= limit)
        parts["better"].append(better)
        parts["least"].append(least)
        parts["own"].append(own)
        parts["best"].append(best_columns(block, top))
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    better = columns["better"]
    ranks = Ranks(best=1 + better, worst=columns["least"], copies=np.ones_like(better))
    return ranks, columns["own"], columns["best"]


def text_ranks(
    blocks: Iterable[np.ndarray], targets: np.ndarray, own: np.ndarray, n_clips: int
) -> Ranks:
    """Return clip -> text ranks of the clips that have a query.

    blocks: the rows of [Q, N], finite; own [Q]: the similarity of each query with its own clip.
    """
    own_best = np.full(n_clips, -np.inf, dtype=own.dtype)
    np.maximum.at(own_best, targets, own)
    asked = np.bincount(targets, minlength=n_clips) > 0
    # A clip's own captions never exceed its best one; those that equal it are subtracted.
    copies = np.bincount(targets[own == own_best[targets]], minlength=n_clips)
    better, least = np.zeros((2, n_clips), dtype=np.int64)
    for block in blocks:
        for rows in _pieces(block):
            better += _count_columns(block[rows] > own_best)
            least += _count_columns(block[rows] >= own_best)
    best = 1 + better
    worst = best + least - better - copies
    return Ranks(best=best[asked], worst=worst[asked], copies=copies[asked])


def own_scores(blocks: Iterable[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Return the similarity of each query with its own clip [Q]."""
    parts, start = [], 0
    for block in blocks:
        parts.append(block[np.arange(len(block)), targets[start : start + len(block)]])
        start += len(block)
    return np.concatenate(parts)


def best_columns(block: np.ndarray, top: int) -> np.ndarray:
    """Return the columns of the `top` largest of each row [q, top], ties in the order of columns.

    The `top`-th largest of maxima over groups of columns is a bound that few values reach.
    """
    number, top = block.shape[1], min(top, block.shape[1])
    if not top:
        return np.empty((len(block), 0), dtype=np.int64)
    groups = max(top, number // 64)
    maxima = block[:, : number // groups * groups].reshape(len(block), -1, groups).max(axis=1)
    bound = np.partition(maxima, groups - top, axis=1)[:, groups - top]
    rows, columns = np.divmod(np.flatnonzero(block >= bound[:, None]), number)
    order = np.lexsort((columns, -block[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(block)))  # of each row, at least `top` of which
    return columns[order[first[:, None] + np.arange(top)]]


def _pieces(block: np.ndarray) -> Iterator[slice]:
    """Split a block into rows that fit in a core's cache; at most 255, so that a byte can count."""
    size = min(255, max(1, CELLS // max(block.shape[1], 1)))
    return (slice(i, min(i + size, len(block))) for i in range(0, len(block), size))


def _count_rows(mask: np.ndarray) -> np.ndarray:
    """Count True in each row; a row at a time where rows are long, which is faster."""
    if mask.shape[1] >= 256:
        return np.array([np.count_nonzero(row) for row in mask], dtype=np.int64)
    return mask.sum(axis=1)


def _count_columns(mask: np.ndarray) -> np.ndarray:
    """Count True in each column of at most 255 rows: bytes add up sixteen times as fast."""
    return mask[0] if len(mask) == 1 else mask.view(np.uint8).sum(axis=0, dtype=np.uint8)


def _checked(blocks: Blocks, targets: np.ndarray, clip_ids: list[str]) -> Iterator[np.ndarray]:
    """Yield the blocks; refuse values that are not finite, with the clip."""
    start = 0
    for block in blocks():
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise UserError(
                f"clip {clip_ids[column]} and caption {start + row} (of clip "
                f"{clip_ids[targets[start + row]]}): their similarity is not finite: the weights "
                "or the clip's features are corrupt. Fix: check the training curve, and run "
                "`clip4vla data verify`"
            )
        yield block
        start += len(block)
