"""Similarities of all texts with all clips of a split, by the family's scorer (facts 7.1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.progress import track
from clip4vla.config.run import Evaluate, Finetune
from clip4vla.inference.features import (
    NumberedBatch,
    clip_batches,
    in_order_of_clips,
    text_features,
)
from clip4vla.loading.loader import WHOLE, Part
from clip4vla.loading.samples import Clips
from clip4vla.metrics.retrieval import Blocks
from clip4vla.models.common.batch_features import Features, count_of, rows_of
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.family import family_of

TEXTS = 1024  # in one block of pairs
CELLS = 1 << 24  # of one block of the similarity matrix: 64 MB
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
        """The clips, in the order of the columns."""
        return [clip_id for clip_id, _, _ in self.samples.items]

    @cached_property
    def scorer(self) -> Scorer:
        """How the run's family compares texts and clips."""
        family = family_of(self.run.model.family)
        return family.scorer(self.model, self.run.model, self.run.modalities)

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

    def blocks(self, captions: list[str], encoded: list[NumberedBatch] | None = None) -> Blocks:
        """Return rows of the run's own similarities [Q, N] of captions and clips, float32.

        encoded: from `encoded`, of all ranks; made here if None.
        """
        return self.views(captions, encoded)[self.scorer.names[0]]

    def views(
        self, captions: list[str], encoded: list[NumberedBatch] | None = None
    ) -> dict[str, Blocks]:
        """Return `blocks` of every similarity of the scorer, by name, the run's own first."""
        clips = in_order_of_clips(self.encoded() if encoded is None else encoded)
        clips.pop("heard")
        if clips["has_audio"].all():
            clips.pop("has_audio")
        texts = self._text_features(captions)
        if self.scorer.joint:
            rows = {name: self._joint_rows(name, texts, clips) for name in self.scorer.names}
            return {name: partial(list, blocks) for name, blocks in rows.items()}
        device = self.scorer.scored_on(self.device)
        columns = {name: _padded(x.to(device)) for name, x in clips.items()}
        return {name: self._products(name, texts, clips, columns) for name in self.scorer.names}

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

    def _products(self, name: str, texts: Features, clips: Features, columns: Features) -> Blocks:
        """Return blocks that are computed at every pass: products of vectors are cheap."""
        device = self.scorer.scored_on(self.device)

        @torch.no_grad()
        def rows(part: Features) -> Tensor:
            moved = {key: x.to(device) for key, x in part.items()}
            with torch.autocast(device.type, enabled=False):
                return self.scorer.scores(name, moved, columns, self.scale)

        return product_blocks(texts, count_of(clips), rows)

    @torch.no_grad()
    def _joint_rows(self, name: str, texts: Features, clips: Features) -> list[np.ndarray]:
        """Return the blocks of [Q, N], computed once: every pair passes an encoder."""
        device = self.scorer.scored_on(self.device)
        columns = {key: x.to(device) for key, x in clips.items()}
        starts, rows = range(0, count_of(texts), TEXTS), []
        with torch.autocast(device.type, enabled=False):
            for start in track(starts, "score pairs"):
                part = rows_of(texts, slice(start, start + TEXTS))
                moved = {key: x.to(device) for key, x in part.items()}
                rows.append(self.scorer.scores(name, moved, columns, self.scale).cpu().numpy())
        return rows


def product_blocks(
    texts: Features, clips: int, rows: Callable[[Features], Tensor], cells: int = CELLS
) -> Blocks:
    """Return blocks of [Q, N]. rows: from features of texts to their rows [q, N or more].

    So many texts are scored at once that a block has about `cells` cells.
    """
    size = max(SIDE, cells // clips // SIDE * SIDE)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, count_of(texts), size):
            part = rows_of(texts, slice(start, start + size))
            padded = {name: _padded(x) for name, x in part.items()}
            yield rows(padded)[: count_of(part), :clips].cpu().numpy()

    return blocks


def _padded(x: Tensor) -> Tensor:
    """x [n, ...] with rows of zeros up to a multiple of `SIDE`.

    Products of small or odd shapes add up in another order: the same caption or clip could differ
    in the last bit between two places, and what is equal would not tie.
    """
    return pad(x, (*[0] * (2 * x.ndim - 1), -len(x) % SIDE))
