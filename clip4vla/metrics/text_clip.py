"""Retrieval of clips: the similarity to rank, the clips to rank, and the names of the metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from clip4vla.config.metrics import directions
from clip4vla.config.sections import Modality, Query
from clip4vla.metrics.intervals import intervals
from clip4vla.metrics.recalls import (
    rank_bounds,
    rank_metrics,
    rank_statistics,
    released_metrics,
    tied_places,
)
from clip4vla.metrics.rescoring import candidates, candidates_first, dual_softmax, reranked
from clip4vla.metrics.retrieval import Blocks, QueryRanks, Similarity, check_finite, retrieval_ranks


def similarity_name(modalities: Sequence[Modality], query: Query = "text") -> str:
    """Return the similarity that a run ranks: `t_va`, `t_v` or `t_a`; by a clip `a_v` or `v_a`."""
    if query != "text":
        return "a_v" if query == "audio" else "v_a"
    return "t_va" if set(modalities) == {"vision", "audio"} else f"t_{modalities[0][0]}"


class BlocksOfSome(Blocks, Protocol):
    """Blocks of similarities of some queries with some clips."""

    def among(self, queries: np.ndarray, clips: np.ndarray) -> "BlocksOfSome":
        """Return those of the queries, bool [Q], and clips, bool [N], that are true."""
        ...


Similarities = Mapping[str, np.ndarray] | Mapping[str, BlocksOfSome]


def score_retrieval(
    similarity: Similarity,
    targets: np.ndarray,
    clip_ids: list[str],
    modalities: Sequence[Modality],
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Return metrics of both directions, and the expected rank and best clips of every query.

    similarity: [Q, N]; targets [Q]: index of each text's clip in `clip_ids`.
    """
    to_clip, to_text, best = retrieval_ranks(similarity, targets, clip_ids)
    forward, backward = directions(modalities)
    metrics = rank_metrics(to_clip, forward) | rank_metrics(to_text, backward)
    return metrics, to_clip.expected, best


@dataclass(frozen=True)
class Retrieval:
    """Results of one gallery. `stated`: its part of metrics.json.

    to_clip [Q]; to_text: of the clips that have a query, `asked`; best: columns [Q, 5].
    """

    stated: dict[str, dict]
    to_clip: QueryRanks
    to_text: QueryRanks
    asked: np.ndarray
    best: np.ndarray


class Rescored(NamedTuple):
    """An order [Q, N] for each direction: candidates by their second scores before the others."""

    to_clip: np.ndarray
    to_text: np.ndarray


def rescored_by(
    similarity: np.ndarray,
    targets: np.ndarray,
    clip_ids: list[str],
    top: int,
    second_scores: Callable[[np.ndarray], np.ndarray],
) -> Rescored:
    """Rank the first `top` clips of each text, and texts of each clip, by second scores.

    similarity [Q, N]; second_scores: from where they are wanted, bool [Q, N], to scores [Q, N].
    Raises UserError, with the clip, for a first or second score that is not finite.
    """
    check_finite(similarity, targets, clip_ids)
    clips, texts = candidates(similarity, top), candidates(similarity.T, top).T
    second = np.where(clips | texts, second_scores(clips | texts), 0.0)
    check_finite(second, targets, clip_ids)
    return Rescored(*(candidates_first(similarity, second, chosen) for chosen in (clips, texts)))


def report_retrieval(
    similarities: Similarities,
    targets: np.ndarray,
    clip_ids: list[str],
    modalities: Sequence[Modality],
    names: Sequence[Modality] | None = None,
    query: Query = "text",
    rescored: Rescored | None = None,
) -> Retrieval:
    """Return metrics of both directions with intervals and bounds, and extras apart from them.

    similarities: [Q, N] by name, among them that of the modalities, which is ranked; targets [Q]:
    index of each query's clip in `clip_ids` [N]. For a run of both modalities with a t_v, ranks by
    t_v, reranked by t_va, are an extra. names: the modalities that metrics are named by, if not the
    same. rescored: what is ranked instead, except by the extras `dual_softmax` and `reranked`.
    """
    name = similarity_name(modalities, query)
    similarity = similarities[name]
    to_clip, to_text, best = retrieval_ranks(
        rescored.to_clip if rescored else similarity,
        targets,
        clip_ids,
        backward=rescored.to_text if rescored else None,
    )
    forward, backward = directions(names or modalities, query)
    released = released_metrics if query == "text" else tied_places
    both = (to_clip, forward), (to_text, backward)
    asked, clip = np.unique(targets, return_inverse=True)
    statistics = rank_statistics(to_clip, clip, forward)
    statistics |= rank_statistics(to_text, np.arange(len(asked)), backward)
    soft = zip(dual_softmax(similarity, targets), (forward, backward), strict=True)
    extras = {
        "released": _joined(released(ranks, direction) for ranks, direction in both),
        "dual_softmax": _joined(rank_metrics(ranks, direction) for ranks, direction in soft),
    }
    if "t_v" in similarities and name != "t_v":
        again = reranked(similarities["t_v"], similarity, targets)
        extras["reranked"] = rank_metrics(again, forward)
    stated = {
        "metrics": _joined(rank_metrics(ranks, direction) for ranks, direction in both),
        "intervals": intervals(statistics, len(asked)),
        "bounds": _joined(rank_bounds(ranks, direction) for ranks, direction in both),
        "ties": {direction: ranks.tied for ranks, direction in both},
        "extras": extras,
    }
    return Retrieval(stated, to_clip, to_text, asked, best)


def rank_columns(
    results: Retrieval, targets: np.ndarray, query: Query = "text"
) -> dict[str, np.ndarray]:
    """Return columns of predictions.parquet, each [Q]: ranks of the query, and of the way back.

    targets [Q]: index of each query's clip, as for `report_retrieval`.
    `rank` is the expected one, `rank_best` and `rank_worst` are its ends under ties; `text_rank`
    (`back_rank` where clips are the queries) and so on: of the query among all queries that its
    clip could have, the same in every row of a clip.
    """
    place = np.searchsorted(results.asked, targets)
    to_text = QueryRanks(*(column[place] for column in results.to_text))
    back = back_column(query)
    return {
        "rank": results.to_clip.expected,
        "rank_best": results.to_clip.best,
        "rank_worst": results.to_clip.worst,
        back: to_text.expected,
        f"{back}_best": to_text.best,
        f"{back}_worst": to_text.worst,
        f"{back}_copies": to_text.copies,
    }


def back_column(query: Query) -> str:
    """Return the column of predictions.parquet with the rank from a clip back to its query."""
    return "text_rank" if query == "text" else "back_rank"


def _joined(parts: Iterable[dict]) -> dict:
    return {name: value for part in parts for name, value in part.items()}


def among(
    kept: np.ndarray,
    similarities: Similarities,
    targets: np.ndarray,
    clip_ids: list[str],
) -> tuple[Similarities, np.ndarray, list[str]]:
    """Restrict a retrieval problem to the clips where kept, bool [N], is true."""
    if kept.all():
        return similarities, targets, clip_ids
    asked, place = kept[targets], np.cumsum(kept) - 1
    some = {
        name: x[np.ix_(asked, kept)] if isinstance(x, np.ndarray) else x.among(asked, kept)
        for name, x in similarities.items()
    }
    ids = [clip_id for clip_id, keep in zip(clip_ids, kept, strict=True) if keep]
    return some, place[targets[asked]], ids


def captions_of(
    pairs: Iterable[tuple[str, str, object]], clip_ids: list[str]
) -> tuple[list[str], np.ndarray]:
    """Return captions [Q] and the index of each one's clip [Q], of the clips with these ids."""
    place = {clip_id: i for i, clip_id in enumerate(clip_ids)}
    kept = [(caption, place[clip_id]) for clip_id, caption, _ in pairs if clip_id in place]
    return [caption for caption, _ in kept], np.array([target for _, target in kept])


def query_numbers(pairs: Iterable[tuple[str, str, object]], clip_ids: list[str]) -> np.ndarray:
    """Return numbers [Q] of the queries of `captions_of`, the same in every gallery."""
    known = set(clip_ids)
    return np.array([number for number, (clip_id, _, _) in enumerate(pairs) if clip_id in known])
