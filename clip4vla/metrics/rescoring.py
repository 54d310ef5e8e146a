"""Rescoring of similarities before ranking, as in other papers. For extra columns only.

Both methods use more than a query and the gallery: dual softmax looks at all other test queries,
which a search engine does not have.
"""

from collections.abc import Iterator

import numpy as np

from clip4vla.metrics.retrieval import (
    Blocks,
    Ranks,
    clip_ranks,
    own_scores,
    text_ranks,
)

CANDIDATES = 50  # clips that are ranked again


def dual_softmax(blocks: Blocks, targets: np.ndarray, n_clips: int) -> tuple[Ranks, Ranks]:
    """Return ranks of both directions by s * softmax(s) over the other side (CAMoE, 2021).

    Text -> clip multiplies each similarity by the softmax over all queries of its clip, clip ->
    text by that over all clips of its text; similarities come with the run's scale. blocks: rows of
    [Q, N], finite; called four times. Computed in float64: in float32 small shares would tie.
    """
    largest, total = np.full(n_clips, -np.inf), np.zeros(n_clips)
    for block in blocks():
        block = block.astype(np.float64)
        new = np.maximum(largest, block.max(axis=0))
        total = total * np.exp(largest - new) + np.exp(block - new).sum(axis=0)
        largest = new
    by_clip = largest + np.log(total)  # [N], the logarithm of each clip's sum over queries

    def over_queries() -> Iterator[np.ndarray]:
        for block in blocks():
            yield block * np.exp(block - by_clip)

    def over_clips() -> Iterator[np.ndarray]:
        for block in blocks():
            share = np.exp(block.astype(np.float64) - block.max(axis=1, keepdims=True))
            yield block * (share / share.sum(axis=1, keepdims=True))

    own = own_scores(over_clips(), targets)
    return clip_ranks(over_queries(), targets)[0], text_ranks(over_clips(), targets, own, n_clips)


def reranked(first: Blocks, second: Blocks, targets: np.ndarray, top: int = CANDIDATES) -> Ranks:
    """Return text -> clip ranks with the `top` clips of one similarity reranked by another.

    first, second: rows of [Q, N], finite. Clips as similar as the last candidate are candidates
    too; the others keep their order behind them. (`sim_rerank` in the released code, unused there.)
    """
    better, least = [], []
    start = 0
    for one, two in zip(first(), second(), strict=True):
        place, number = np.arange(len(one)), one.shape[1]
        own = targets[start : start + len(one)]
        start += len(one)
        limit = np.partition(one, number - min(top, number), axis=1)[:, number - min(top, number)]
        chosen = one >= limit[:, None]
        again = chosen[place, own][:, None]  # whether the right clip is a candidate
        by = np.where(again, two, one)
        rivals = np.where(again, chosen, True)
        mine = by[place, own][:, None]
        better.append(((by > mine) & rivals).sum(axis=1))
        least.append(((by >= mine) & rivals).sum(axis=1))
    counts = np.concatenate(better)
    return Ranks(1 + counts, np.concatenate(least), np.ones_like(counts))
