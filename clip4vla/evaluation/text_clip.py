"""Text-clip retrieval: which similarity is ranked, among which clips, and its metrics' names."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from clip4vla.config.run import Modality
from clip4vla.evaluation.retrieval import Blocks, rank_metrics, retrieval_ranks


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
    """Metrics of both directions, the rank of every query and its best clips.

    blocks: rows of the similarities [Q, N], see `retrieval_ranks`; targets [Q]: index of each
    text's clip in `clip_ids`.
    """
    to_clip, to_text, best = retrieval_ranks(blocks, targets, clip_ids)
    forward, backward = directions(modalities)
    metrics = rank_metrics(to_clip, forward) | rank_metrics(to_text, backward)
    return metrics, to_clip, best


def among(
    kept: np.ndarray, blocks: Blocks, targets: np.ndarray, clip_ids: list[str]
) -> tuple[Blocks, np.ndarray, list[str]]:
    """The part of a retrieval problem that concerns some clips: bool [N]."""
    place = np.cumsum(kept) - 1
    asked = kept[targets]  # [Q]

    def part() -> Iterator[np.ndarray]:
        start = 0
        for block in blocks():
            rows = asked[start : start + len(block)]
            start += len(block)
            yield block[rows][:, kept]

    return part, place[targets[asked]], [x for x, keep in zip(clip_ids, kept, strict=True) if keep]


def captions_of(pairs: Iterable[tuple[str, str, str]], clip_ids: list[str]):
    """Captions [Q] and the index of each one's clip [Q], for the clips given."""
    place = {clip_id: i for i, clip_id in enumerate(clip_ids)}
    kept = [(caption, place[clip_id]) for clip_id, caption, _ in pairs if clip_id in place]
    return [caption for caption, _ in kept], np.array([target for _, target in kept])


def query_numbers(pairs: Iterable[tuple[str, str, str]], clip_ids: list[str]) -> np.ndarray:
    """Numbers of the queries [Q] of `captions_of`: a query has the same one in any gallery."""
    known = set(clip_ids)
    return np.array([number for number, (clip_id, _, _) in enumerate(pairs) if clip_id in known])
