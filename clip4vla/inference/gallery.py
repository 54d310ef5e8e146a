"""Similarities of all queries with all clips of a split, by the family's scorer (facts 7.1)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.device import in_float32
from clip4vla.common.progress import track
from clip4vla.config.run import Evaluate, Finetune
from clip4vla.config.sections import Modality
from clip4vla.inference.features import (
    NumberedBatch,
    clip_batches,
    in_order_of_clips,
    text_features,
)
from clip4vla.loading.loader import WHOLE, Part
from clip4vla.loading.samples import Clips
from clip4vla.models.common.batch_features import Features, count_of, rows_of
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.family import family_of

QUERIES = 1024  # compared at once with all clips
LARGE = 1 << 28  # similarities, of which no matrix is made if they can be had in blocks: 1 GiB
TILE = 4096  # clips of a product of similarities that are remade, a multiple of SIDE
SIDE = 256  # sides of a product are multiples of it, see `_padded`


@dataclass(frozen=True)
class Gallery:
    """Clips to search, and how: what validation and evaluation have in common.

    scale: 1 / temperature, of the objective or of the evaluation; it changes no rank.
    texts: features of captions, for galleries of the same captions to share.
    """

    model: ClipModel
    samples: Clips
    run: Finetune | Evaluate
    scale: float
    device: torch.device
    workers: int
    texts: dict[tuple[str, ...], Features] = field(default_factory=dict)

    @property
    def clip_ids(self) -> list[str]:
        """Return the clips, in the order of the columns."""
        return [clip_id for clip_id, _, _ in self.samples.items]

    @cached_property
    def scorer(self) -> Scorer:
        """Return how the run's family compares texts and clips."""
        run = self.run
        return family_of(run.model.family).scorer(
            self.model,
            run.model,
            run.modalities,
            rescores=isinstance(run, Evaluate) and run.rescore is not None,
        )

    def encoded(self, part: Part = WHOLE) -> list[NumberedBatch]:
        """Return numbered batches of features of the clips: all, or the part of one rank."""
        return clip_batches(
            self.model,
            self.samples,
            self.run.modalities,
            self.device,
            self.workers,
            features_of=self.scorer.clip_features,
            part=part,
        )

    def similarities(
        self, captions: list[str], encoded: list[NumberedBatch] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the similarities [Q, N] of captions and clips by name, float32.

        encoded: from `encoded`, of all ranks; made here if None.
        """
        texts, clips = self.features(captions, encoded)
        return compared(self.scorer, texts, clips, scale=self.scale, device=self.device)

    def ranked(
        self, captions: list[str], encoded: list[NumberedBatch] | None = None
    ) -> dict[str, np.ndarray] | dict[str, "Remade"]:
        """Return what `similarities` does; those that are too large for a matrix in blocks."""
        texts, clips = self.features(captions, encoded)
        return ranked(self.scorer, texts, clips, scale=self.scale, device=self.device)

    def features(
        self, captions: list[str], encoded: list[NumberedBatch] | None = None
    ) -> tuple[Features, Features]:
        """Return the features of captions and clips, which `similarities` compares."""
        clips = in_order_of_clips(self.encoded() if encoded is None else encoded)
        if clips["has_audio"].all():
            clips.pop("has_audio")
        return self._text_features(captions), clips

    def across(self, query: Modality) -> dict[str, np.ndarray] | dict[str, "Remade"]:
        """Return the similarities [N, N] of the clips by one modality with them by the other.

        Each modality passes the model alone, for a fusion of both would show a query its answer.
        """
        answer: Modality = "vision" if query == "audio" else "audio"
        return ranked(
            self.scorer,
            queries=self._alone(query),
            clips=self._alone(answer),
            scale=self.scale,
            device=self.device,
        )

    def _alone(self, modality: Modality) -> Features:
        """Return the features of the clips by one modality."""
        batches = clip_batches(
            self.model,
            self.samples.only(modality),
            [modality],
            self.device,
            self.workers,
            features_of=self.scorer.alone_features,
        )
        return {modality: in_order_of_clips(batches)[modality]}

    def _text_features(self, captions: list[str]) -> Features:
        """Return features of the captions, made unless a gallery that shares `texts` has."""
        key = tuple(captions)
        if key not in self.texts:
            self.texts[key] = text_features(
                self.model,
                captions,
                self.run.inputs.max_words,
                self.device,
                features_of=self.scorer.text_features,
            )
        return self.texts[key]


@torch.no_grad()
def compared(
    scorer: Scorer, queries: Features, clips: Features, scale: float, device: torch.device
) -> dict[str, np.ndarray]:
    """Return the similarities [Q, N] of queries and clips by name. device: the model's."""
    device = scorer.scored_on(device)
    columns = _ready(scorer, clips, device)
    number, clip_count = count_of(queries), count_of(clips)
    found: dict[str, np.ndarray] = {}
    with in_float32(device):
        for start in track(range(0, number, QUERIES), "score queries"):
            part = rows_of(queries, slice(start, start + QUERIES))
            few = count_of(part)
            for name, x in scorer.scores(_ready(scorer, part, device), columns, scale).items():
                if name not in found:
                    found[name] = np.empty((number, clip_count), dtype=np.float32)
                found[name][start : start + few] = x[:few, :clip_count].cpu().numpy()
    return found


def ranked(
    scorer: Scorer, queries: Features, clips: Features, scale: float, device: torch.device
) -> dict[str, np.ndarray] | dict[str, "Remade"]:
    """Return what `compared` does; similarities that are more than `LARGE` in blocks.

    Pairs that pass through an encoder are compared once.
    """
    if scorer.joint or count_of(queries) * count_of(clips) <= LARGE:
        return compared(scorer, queries, clips, scale, device)
    device = scorer.scored_on(device)
    queries, clips = (
        {name: x.to(device) for name, x in features.items() if name not in scorer.second}
        for features in (queries, clips)
    )
    one = slice(0, 1)
    names = compared(scorer, rows_of(queries, one), rows_of(clips, one), scale, device)
    shape, columns = (count_of(queries), count_of(clips)), _all_padded(clips)
    return {name: Remade(name, scorer, queries, columns, scale, shape) for name in names}


@dataclass(frozen=True)
class Remade:
    """Similarities [Q, N] of one name that are computed whenever they are read.

    queries; columns: the clips, padded; both on the device to score on. All products have the same
    sides, so that a similarity has the same bits each time.
    """

    name: str
    scorer: Scorer
    queries: Features
    columns: Features
    scale: float
    shape: tuple[int, int]

    def blocks(self) -> Iterator[np.ndarray]:
        """See `clip4vla.metrics.retrieval.Blocks`."""
        number, clip_count = self.shape
        for start in track(range(0, number, QUERIES), "score queries"):
            block = np.empty((min(QUERIES, number - start), clip_count), dtype=np.float32)
            for column in range(0, clip_count, TILE):
                block[:, column : column + TILE] = self._tile(start, column)
            yield block

    def at(self, columns: np.ndarray) -> np.ndarray:
        """See `clip4vla.metrics.retrieval.Blocks`."""
        found = np.empty(len(columns), dtype=np.float32)
        for start in range(0, len(columns), QUERIES):
            rows = slice(start, start + QUERIES)
            tiles, cells = columns[rows] // TILE, columns[rows] % TILE
            for tile in np.unique(tiles):
                its = np.flatnonzero(tiles == tile)
                found[start + its] = self._tile(start, int(tile) * TILE)[its, cells[its]]
        return found

    def among(self, queries: np.ndarray, clips: np.ndarray) -> "Remade":
        """Return the similarities of the queries, bool [Q], and clips, bool [N], that are true."""
        asked, found = (
            {name: x[torch.from_numpy(np.flatnonzero(kept))] for name, x in features.items()}
            for features, kept in ((self.queries, queries), (self.columns, clips))
        )
        shape = count_of(asked), count_of(found)
        return replace(self, queries=asked, columns=_all_padded(found), shape=shape)

    @torch.no_grad()
    def _tile(self, row: int, column: int) -> np.ndarray:
        queries = rows_of(self.queries, slice(row, row + QUERIES))
        clips = rows_of(self.columns, slice(column, column + TILE))
        device = next(iter(clips.values())).device
        with in_float32(device):
            scores = self.scorer.scores(_all_padded(queries), clips, self.scale)[self.name]
        return scores[: count_of(queries), : self.shape[1] - column].cpu().numpy()


def _ready(scorer: Scorer, features: Features, device: torch.device) -> Features:
    """Return the features that are compared, on the device and, unless joint, padded."""
    moved = {name: x.to(device) for name, x in features.items() if name not in scorer.second}
    return moved if scorer.joint else _all_padded(moved)


def _all_padded(features: Features) -> Features:
    """Pad each feature as `_padded` does."""
    return {name: _padded(x) for name, x in features.items()}


def _padded(x: Tensor) -> Tensor:
    """Pad x [n, ...] with rows of zeros up to a multiple of `SIDE`.

    Products of small or odd shapes add up in another order: the same caption or clip could differ
    in the last bit between two places, and what is equal would not tie.
    """
    return pad(x, (*[0] * (2 * x.ndim - 1), -len(x) % SIDE))
