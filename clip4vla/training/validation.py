"""Validation of a training: scores of the validation clips, equal for every model family."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from clip4vla.config.metrics import main_metric
from clip4vla.config.run import Finetune
from clip4vla.inference.captioning import generate
from clip4vla.inference.features import (
    ClipFeatures,
    NumberedBatch,
    clip_batches,
    clip_features,
    reduced_by,
)
from clip4vla.inference.gallery import Gallery
from clip4vla.inference.probe import class_logits
from clip4vla.loading.loader import WHOLE, Part
from clip4vla.loading.samples import ClipSamples, Item
from clip4vla.metrics.classification import accuracy
from clip4vla.metrics.retrieval import Similarity
from clip4vla.metrics.tagging import class_scores, scored_labels
from clip4vla.metrics.text_clip import captions_of, score_retrieval, similarity_name
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.pooling import masked_mean

BEST_OF_THREE = "best_of_three_R1"


class Validation(Protocol):
    """Scores of a model in evaluation mode."""

    @property
    def selection_metric(self) -> str:
        """The name of the metric that selects an epoch; "" where nothing is scored."""

    def part(self) -> list[Any]:
        """Return the outputs of this rank for its part of the clips; they go to the first rank."""

    def scores(self, parts: list[Any]) -> dict[str, float]:
        """Return the metrics, from the parts of all ranks."""


class NoValidation:
    """No scores: for pre-training (facts 6.3), and without validation clips."""

    selection_metric = ""

    def part(self) -> list[Any]:
        """Return no outputs."""
        return []

    def scores(self, parts: list[Any]) -> dict[str, float]:
        """Return no scores."""
        return {}


@dataclass(frozen=True)
class ClipsToScore:
    """Clips to score (one sample each), and this rank's part and device."""

    samples: ClipSamples
    device: torch.device
    workers: int
    part: Part = WHOLE


@dataclass(frozen=True)
class RetrievalValidation:
    """Recalls and ranks of both directions. pairs: (clip, caption) items."""

    model: ClipModel
    run: Finetune
    clips: ClipsToScore
    pairs: Sequence[Item]

    @property
    def selection_metric(self) -> str:
        """R@1 of text -> clip; for selection as in the paper the best of three (facts 7.5)."""
        if self.run.selection == "best_test_as_paper":
            return BEST_OF_THREE
        return main_metric("retrieval", self.run.modalities)

    def part(self) -> list[Any]:
        """Return this rank's part of the clips, encoded."""
        return self._gallery().encoded(self.clips.part)

    def scores(self, parts: list[Any]) -> dict[str, float]:
        """Return recalls and ranks, and the largest R@1 of t_va, t_v and t_a if that selects."""
        gallery, modalities = self._gallery(), self.run.modalities
        captions, targets = captions_of(self.pairs, gallery.clip_ids)
        views = dict[str, Similarity](gallery.ranked(captions, parts))
        main = views.pop(similarity_name(modalities))
        scores = score_retrieval(main, targets, gallery.clip_ids, modalities)[0]
        if self.run.selection == "best_test_as_paper":
            recall = main_metric("retrieval", modalities)
            others = [
                score_retrieval(other, targets, gallery.clip_ids, modalities)[0][recall]
                for other in views.values()
            ]
            scores[BEST_OF_THREE] = max([scores[recall], *others])
        return scores

    def _gallery(self) -> Gallery:
        return Gallery(
            model=self.model,
            samples=self.clips.samples,
            run=self.run,
            scale=self.run.objective.validation_scale,
            device=self.clips.device,
            workers=self.clips.workers,
        )


@dataclass(frozen=True)
class CaptionValidation:
    """BLEU, ROUGE-L and CIDEr; METEOR is left to the final evaluation. references: by clip."""

    model: ClipModel
    run: Finetune
    clips: ClipsToScore
    references: dict[str, list[str]]
    selection_metric: str = "CIDEr"

    def part(self) -> list[tuple[str, str]]:
        """Return captions (clip, text) of this rank's part of the clips.

        They are greedy; for selection as in the paper they are decoded as in the evaluation.
        """
        captions = generate(
            self.model,
            self.clips.samples,
            self.run.modalities,
            self.clips.device,
            self.clips.workers,
            decoding=self.run.decoding,
            part=self.clips.part,
        )
        return list(captions.items())

    def scores(self, parts: list[tuple[str, str]]) -> dict[str, float]:
        """Return the caption metrics."""
        from clip4vla.metrics.captions import score_captions  # of the extra `captions`

        written = dict(parts)
        ids = [clip_id for clip_id, _, _ in self.clips.samples.items]
        captions = {clip_id: written[clip_id] for clip_id in ids}
        references = {clip_id: self.references[clip_id] for clip_id in ids}
        return score_captions(captions, references, {"val": ids}, with_meteor=False)["val"]


@dataclass(frozen=True)
class LabelValidation:
    """Accuracy, or mAP and mAUC.

    features: of frozen towers, computed once, on every rank; None: they learn.
    """

    model: ClipModel
    run: Finetune
    clips: ClipsToScore
    classes: list[str]
    labels: list[tuple[str, ...]]
    features: ClipFeatures | None

    @property
    def selection_metric(self) -> str:
        """Accuracy or mAP."""
        return main_metric(self.run.task, self.run.modalities)

    def part(self) -> list[NumberedBatch]:
        """Return the features of this rank's part of the clips, if the towers learn."""
        if self.features is not None:
            return []
        return clip_batches(
            self.model,
            self.clips.samples,
            self.run.modalities,
            self.clips.device,
            self.clips.workers,
            features_of=reduced_by(self.model, masked_mean),
            part=self.clips.part,
        )

    def scores(self, parts: list[NumberedBatch]) -> dict[str, float]:
        """Return the metrics of the task, in percent."""
        features = self.features
        if features is None:
            features = clip_features(self.clips.samples, parts)
        logits = class_logits(self.model, features, self.clips.device).numpy()
        if self.run.task == "tagging":
            found = scored_labels(self.labels, self.classes, logits)
            ids = features.clip_ids
            return class_scores(found.targets, found.scores, found.classes, ids).means()
        predicted = [self.classes[i] for i in logits.argmax(axis=1)]
        return {"accuracy": accuracy([label for (label,) in self.labels], predicted)}
