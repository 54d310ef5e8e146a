"""Text-clip retrieval: which similarity is ranked, among which clips, and its metrics' names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clip4vla.config.sections import Modality
from clip4vla.metrics.intervals import intervals
from clip4vla.metrics.recalls import (
    rank_bounds,
    rank_metrics,
    rank_statistics,
    released_metrics,
)
from clip4vla.metrics.rescoring import dual_softmax, reranked
from clip4vla.metrics.retrieval import Blocks, Ranks, retrieval_ranks

KEPT = 1 << 29  # bytes: a smaller similarity matrix is computed once, a larger one again a pass


def similarity_name(modalities: Sequence[Modality]) -> str:
    """`t_va`, `t_v` or `t_a`: the similarity that the modalities of a run stand for."""
    return "t_va" if set(modalities) == {"vision", "audio"} else f"t_{modalities[0][0]}"


def directions(modalities: Sequence[Modality]) -> tuple[str, str]:
    """Prefixes of metrics: t2v and v2t, or t2a and a2t where audio stands alone."""
    letter = "a" if list(modalities) == ["audio"] else "v"
    return f"t2{letter}", f"{letter}2t"


def score_retrieval(
    blocks: Blocks, targets: np.ndarray, clip_ids: list[str], modalities: Sequence[Modality]
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Metrics of both directions, the expected rank of every query and its best clips.

    blocks: rows of the similarities [Q, N], see `retrieval_ranks`; targets [Q]: index of each
    text's clip in `clip_ids`.
    """
    to_clip, to_text, best = retrieval_ranks(blocks, targets, clip_ids)
    forward, backward = directions(modalities)
    metrics = rank_metrics(to_clip, forward) | rank_metrics(to_text, backward)
    return metrics, to_clip.expected, best


@dataclass(frozen=True)
class Retrieval:
    """All that is known of one gallery. `stated`: its part of metrics.json, metrics and beyond.

    to_clip [Q]; to_text of the clips that have a query, `asked`; best: columns [Q, 5].
    """

    stated: dict[str, dict]
    to_clip: Ranks
    to_text: Ranks
    asked: np.ndarray
    best: np.ndarray


def report_retrieval(
    heads: Mapping[str, Blocks],
    targets: np.ndarray,
    clip_ids: list[str],
    modalities: Sequence[Modality],
    names: Sequence[Modality] | None = None,
) -> Retrieval:
    """Metrics of both directions with intervals and bounds, and, apart from them, extras.

    heads: blocks of similarities [Q, N] by name, among them that of the modalities, which is
    ranked; targets [Q]: index of each text's clip in `clip_ids` [N]. A run of both modalities whose
    t_v is given has it ranked again by t_va as an extra. names: the modalities that metrics are
    named by, if not the same.
    """
    name = similarity_name(modalities)
    blocks = kept(heads[name], len(targets), len(clip_ids))
    to_clip, to_text, best = retrieval_ranks(blocks, targets, clip_ids)
    forward, backward = directions(names or modalities)
    both = (to_clip, forward), (to_text, backward)
    asked, clip = np.unique(targets, return_inverse=True)
    statistics = rank_statistics(to_clip, clip, forward)
    statistics |= rank_statistics(to_text, np.arange(len(asked)), backward)
    soft = zip(dual_softmax(blocks, targets, len(clip_ids)), (forward, backward), strict=True)
    extras = {
        "released": _joined(released_metrics(ranks, direction) for ranks, direction in both),
        "dual_softmax": _joined(rank_metrics(ranks, direction) for ranks, direction in soft),
    }
    if "t_v" in heads and name != "t_v":
        again = reranked(heads["t_v"], blocks, targets)
        extras["reranked"] = rank_metrics(again, forward)
    stated = {
        "metrics": _joined(rank_metrics(ranks, direction) for ranks, direction in both),
        "intervals": intervals(statistics, len(asked)),
        "bounds": _joined(rank_bounds(ranks, direction) for ranks, direction in both),
        "ties": {direction: ranks.tied for ranks, direction in both},
        "extras": extras,
    }
    return Retrieval(stated, to_clip, to_text, asked, best)


def rank_columns(found: Retrieval, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of predictions.parquet, each [Q]: the rank of each query, and of its clip's texts.

    targets [Q]: index of each text's clip, as `report_retrieval` had them.
    `rank` is the expected one, `rank_best` and `rank_worst` are its ends under ties; `text_rank`
    and so on: clip -> text, the same in every row of a clip.
    """
    to_text = Ranks(*(column[np.searchsorted(found.asked, targets)] for column in found.to_text))
    return {
        "rank": found.to_clip.expected,
        "rank_best": found.to_clip.best,
        "rank_worst": found.to_clip.worst,
        "text_rank": to_text.expected,
        "text_rank_best": to_text.best,
        "text_rank_worst": to_text.worst,
        "text_rank_copies": to_text.copies,
    }


def kept(blocks: Blocks, queries: int, clips: int) -> Blocks:
    """Blocks that are computed once, if the whole matrix takes at most `KEPT` bytes."""
    if 4 * queries * clips > KEPT:
        return blocks
    rows = list(blocks())
    return lambda: rows


def _joined(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def among(
    kept: np.ndarray, blocks: Blocks, targets: np.ndarray, clip_ids: list[str]
) -> tuple[Blocks, np.ndarray, list[str]]:
    """The part of a retrieval problem that concerns some clips: bool [N]."""
    if kept.all():
        return blocks, targets, clip_ids
    place = np.cumsum(kept) - 1
    asked = kept[targets]  # [Q]

    def part() -> Iterator[np.ndarray]:
        start = 0
        for block in blocks():
            rows = asked[start : start + len(block)]
            start += len(block)
            if rows.any():  # captions of silent clips alone may fill a block
                yield block[rows][:, kept]

    return part, place[targets[asked]], [x for x, keep in zip(clip_ids, kept, strict=True) if keep]


def captions_of(
    pairs: Iterable[tuple[str, str, str]], clip_ids: list[str]
) -> tuple[list[str], np.ndarray]:
    """Captions [Q] and the index of each one's clip [Q], for the clips given."""
    place = {clip_id: i for i, clip_id in enumerate(clip_ids)}
    kept = [(caption, place[clip_id]) for clip_id, caption, _ in pairs if clip_id in place]
    return [caption for caption, _ in kept], np.array([target for _, target in kept])


def query_numbers(pairs: Iterable[tuple[str, str, str]], clip_ids: list[str]) -> np.ndarray:
    """Numbers of the queries [Q] of `captions_of`: a query has the same one in any gallery."""
    known = set(clip_ids)
    return np.array([number for number, (clip_id, _, _) in enumerate(pairs) if clip_id in known])
