"""Ranks and recalls of text -> clip and clip -> text retrieval, several captions per clip.

Ties: the rank of an answer is 1 + (better ones) + (equal ones) / 2, the mean of its best and worst
place (`TIE_RULE`). This is the rank of the released code plus one (facts 7.6). Its recalls differ
from ours in one case only: R@5 and R@10 there count a rank of k + 1/2, ours and its R@1 do not.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from clip4vla.errors import UserError

TIE_RULE = "mean of the best and the worst rank"
RECALLS = (1, 5, 10, 50)
Blocks = Callable[[], Iterable[np.ndarray]]


def blocks_of(similarity: np.ndarray, size: int = 1024) -> Blocks:
    """The rows of a whole similarity matrix [Q, N] in blocks."""
    return lambda: (similarity[i : i + size] for i in range(0, len(similarity), size))


def _checked(blocks: Blocks, targets: np.ndarray, clip_ids: list[str]) -> Iterator:
    """Blocks with their first row; refuses values that are not finite, naming the clip."""
    start = 0
    for block in blocks():
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            row, column = bad[0]
            raise UserError(
                f"similarity of clip {clip_ids[column]} and caption {start + row} (of clip "
                f"{clip_ids[targets[start + row]]}) is not finite: the weights or this clip's "
                "features are broken; check the training curve and the clip's cache entry"
            )
        yield start, block
        start += len(block)


def retrieval_ranks(
    blocks: Blocks, targets: np.ndarray, clip_ids: list[str], top: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks (from 1) of both directions, and the best clips of each query.

    blocks: called twice, yields the rows of the similarity matrix [Q, N] in order.
    targets [Q]: the clip (column) of each query. Every clip has at least one query.
    Returns text -> clip ranks [Q]; clip -> text ranks [N], where a clip's best caption counts and
    its competitors are the captions of other clips; the columns of the `top` best clips [Q, top]
    (equal ones in the order of columns).
    """
    to_clip, best_columns = [], []
    own_best = np.full(len(clip_ids), -np.inf)
    for start, block in _checked(blocks, targets, clip_ids):
        own_columns = targets[start : start + len(block)]
        own = block[np.arange(len(block)), own_columns][:, None]  # [q, 1]
        better, equal = (block > own).sum(1), (block == own).sum(1) - 1
        to_clip.append(1 + better + equal / 2)
        best_columns.append(np.argsort(-block, axis=1, kind="stable")[:, :top])
        np.maximum.at(own_best, own_columns, own[:, 0])
    better, equal = np.zeros(len(clip_ids)), np.zeros(len(clip_ids))
    for start, block in _checked(blocks, targets, clip_ids):
        own_columns = targets[start : start + len(block)]
        others = np.ones(block.shape, dtype=bool)
        others[np.arange(len(block)), own_columns] = False
        better += ((block > own_best) & others).sum(0)
        equal += ((block == own_best) & others).sum(0)
    return np.concatenate(to_clip), 1 + better + equal / 2, np.concatenate(best_columns)


def rank_metrics(ranks: np.ndarray, direction: str) -> dict[str, float]:
    """R@k in percent, median and mean rank of ranks [Q], named such as `t2v_R1`."""
    values = {f"{direction}_R{k}": 100.0 * float(np.mean(ranks <= k)) for k in RECALLS}
    values[f"{direction}_MedR"] = float(np.median(ranks))
    values[f"{direction}_MeanR"] = float(np.mean(ranks))
    return values
