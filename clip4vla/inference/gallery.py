"""Similarities of all queries with all clips of a split, by the family's scorer (facts 7.1)."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

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

    def features(
        self, captions: list[str], encoded: list[NumberedBatch] | None = None
    ) -> tuple[Features, Features]:
        """Return the features of captions and clips, which `similarities` compares."""
        clips = in_order_of_clips(self.encoded() if encoded is None else encoded)
        if clips["has_audio"].all():
            clips.pop("has_audio")
        return self._text_features(captions), clips

    def across(self, query: Modality) -> dict[str, np.ndarray]:
        """Return the similarities [N, N] of the clips by one modality with them by the other.

        Each modality passes the model alone, for a fusion of both would show a query its answer.
        """
        answer: Modality = "vision" if query == "audio" else "audio"
        return compared(
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

    def ready(features: Features) -> Features:
        moved = {name: x.to(device) for name, x in features.items() if name not in scorer.second}
        return moved if scorer.joint else {name: _padded(x) for name, x in moved.items()}

    columns, blocks = ready(clips), []
    with torch.autocast(device.type, enabled=False):
        for start in track(range(0, count_of(queries), QUERIES), "score queries"):
            part = rows_of(queries, slice(start, start + QUERIES))
            rows = scorer.scores(ready(part), columns, scale)
            few, clip_count = count_of(part), count_of(clips)
            blocks.append({name: x[:few, :clip_count].cpu() for name, x in rows.items()})
    return {name: torch.cat([rows[name] for rows in blocks]).numpy() for name in blocks[0]}


def _padded(x: Tensor) -> Tensor:
    """Pad x [n, ...] with rows of zeros up to a multiple of `SIDE`.

    Products of small or odd shapes add up in another order: the same caption or clip could differ
    in the last bit between two places, and what is equal would not tie.
    """
    return pad(x, (*[0] * (2 * x.ndim - 1), -len(x) % SIDE))
