"""Text-clip retrieval on features: which similarity is ranked, what its metrics are called."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from clip4vla.config.run import Modality
from clip4vla.evaluation.features import ClipFeatures
from clip4vla.evaluation.retrieval import rank_metrics, retrieval_ranks
from clip4vla.models.similarity import similarities

BLOCK = 1024  # queries in one block of the similarity matrix


def similarity_name(modalities: Sequence[Modality]) -> str:
    """`t_va`, `t_v` or `t_a`: the similarity that the modalities of a run stand for."""
    return "t_va" if set(modalities) == {"vision", "audio"} else f"t_{modalities[0][0]}"


def directions(modalities: Sequence[Modality]) -> tuple[str, str]:
    """Prefixes of metrics: t2v and v2t, or t2a and a2t where audio stands alone."""
    letter = "a" if list(modalities) == ["audio"] else "v"
    return f"t2{letter}", f"{letter}2t"


def score_retrieval(
    texts: Tensor,
    targets: np.ndarray,
    clips: ClipFeatures,
    modalities: Sequence[Modality],
    scale: float,
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Metrics of both directions, the rank of every query and its best clips.

    texts [Q, D]; targets [Q]: index of each text's clip in `clips`. Computed in float32 on the CPU.
    """
    name = similarity_name(modalities)

    def blocks() -> Iterator[np.ndarray]:
        for part in texts.split(BLOCK):
            given = (part, clips.vision, clips.audio, scale, clips.has_audio)
            yield similarities(*given)[name].numpy()

    to_clip, to_text, best = retrieval_ranks(blocks, targets, clips.clip_ids)
    forward, backward = directions(modalities)
    metrics = rank_metrics(to_clip, forward) | rank_metrics(to_text, backward)
    return metrics, to_clip, best


def among(
    kept: np.ndarray, texts: Tensor, targets: np.ndarray, clips: ClipFeatures
) -> tuple[Tensor, np.ndarray, ClipFeatures]:
    """The part of a retrieval problem that concerns some clips: bool [N]."""
    place = np.cumsum(kept) - 1
    asked = kept[targets]
    index = torch.from_numpy(np.flatnonzero(kept))
    return texts[torch.from_numpy(asked)], place[targets[asked]], clips.take(index)


def captions_of(pairs: Iterable[tuple[str, str, str]], clip_ids: list[str]):
    """Captions [Q] and the index of each one's clip [Q], for the clips given."""
    place = {clip_id: i for i, clip_id in enumerate(clip_ids)}
    kept = [(caption, place[clip_id]) for clip_id, caption, _ in pairs if clip_id in place]
    return [caption for caption, _ in kept], np.array([target for _, target in kept])
