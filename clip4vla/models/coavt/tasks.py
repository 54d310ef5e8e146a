"""The training tasks of CoAVT: alignments of texts with clips, and captioning (facts 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import Modality
from clip4vla.models.coavt.losses import contrast_logits, contrast_loss, matching_loss
from clip4vla.models.coavt.matching_pairs import negative_logits
from clip4vla.models.coavt.model import LEAST_TEMPERATURE, STREAM_OF, CoAVT
from clip4vla.models.coavt.negatives import dice_of, draw_negatives
from clip4vla.models.coavt.objective import Alignment, Objective
from clip4vla.models.coavt.query_layer import ClipKeys
from clip4vla.models.common.batch_features import Features, numbers_of
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.gather import gather
from clip4vla.models.common.losses import contrast
from clip4vla.models.common.pooling import masked_mean, normalise
from clip4vla.models.common.task import Batch, ContrastiveTask, Loss

Keys = dict[Alignment, ClipKeys]
CONTRAST_SCALE = 1 / 0.05  # of sounds and pictures: CAV-MAE's temperature (facts 3)


@dataclass
class AlignmentTask(ContrastiveTask):
    """Contrast, matching and language modelling in each alignment: pre-training and retrieval.

    L = sum over alignments of w (contrast L_con + matching L_mat + language L_lm), facts 2; L_lm is
    weighted by `bimodal_language`, too, where a wider alignment learns. A clip without sound or
    without picture is left out of the alignments that need it.

    Features of an alignment are named `queries.av`, `present.a` and so on.
    """

    model: CoAVT
    run: Pretrain | Finetune
    heads: ClassVar[tuple[str, ...]] = ("temperature",)

    @property
    def wanted(self) -> Objective:
        """Return the objective of the run."""
        assert isinstance(self.run.objective, Objective)
        return self.run.objective

    @property
    def modalities(self) -> list[Modality]:
        """Return the modalities that the run reads."""
        return self.run.modalities if isinstance(self.run, Finetune) else self.wanted.modalities

    @property
    def alignments(self) -> list[Alignment]:
        """Return the alignments that learn."""
        return self.wanted.alignments(self.modalities)

    def loss(self, batch: Batch) -> Loss:
        """See `ContrastiveTask.loss`: the keys of clips serve their negatives, too."""
        features, keys = self._encoded(batch)
        return self._objective(gather(features), keys)

    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Return what concerns each clip and its own text alone."""
        return self._encoded(batch)[0]

    def objective(self, features: Features) -> Loss:
        """Return the weighted sum of all terms; the terms have no weight in the curve."""
        return self._objective(features, {})

    def _encoded(self, batch: Batch) -> tuple[Features, Keys]:
        """Return the features of `encode`, and the keys of its clips in each alignment."""
        wanted, model, keys = self.wanted, self.model, {}
        epoch = batch.get("epoch", 0)  # else a batch of all clips would always draw alike
        samples = [
            f"{epoch} {clip} {ids}"
            for clip, ids in zip(batch["clip_id"], batch["tokens"].tolist(), strict=True)
        ]
        tokens = model.text_ids.trimmed(batch["tokens"])
        features = {
            "clip": numbers_of(batch["clip_id"]).to(tokens.device),
            "sample": numbers_of(samples).to(tokens.device),
            "tokens": tokens,
        }
        needed = {STREAM_OF[name] for name in self.alignments}
        if wanted.audio_visual_contrast:
            needed |= {"audio", "vision"}
        streams = model.streams(model.encode_clips(batch, self.modalities), needed)
        if wanted.contrast or wanted.matching:
            features["text"] = model.encode_text(tokens)[1]
        for name in self.alignments:
            clip = streams[STREAM_OF[name]]
            keys[name] = model.query.keys_of(clip)
            found = self._aligned(name, clip, keys[name], tokens)
            if wanted.matching:
                found["dice"] = dice_of(samples, name, self.run.seed).to(tokens.device)
            features |= {f"{key}.{name}": x for key, x in found.items()}
        if wanted.audio_visual_contrast:
            for modality in ("audio", "vision"):
                features[modality] = normalise(masked_mean(*streams[modality]))
                features[f"has_{modality}"] = streams[modality].mask.any(dim=1)
        return features, keys

    def _aligned(
        self, name: Alignment, clip: FeatureSequence, keys: ClipKeys, tokens: Tensor
    ) -> Features:
        """Return the features of clips and their own texts in an alignment.

        One causal pass gives the queries, too, because they attend to no word (facts 2.1).
        """
        wanted, model, present = self.wanted, self.model, clip.mask.any(dim=1)
        features = {"present": present}
        if wanted.language_weight(name, self.modalities):
            loss, states = model.language_loss(tokens, keys, wanted.language_smoothing)
            features |= {"words": loss.counts * present, "language": loss.sums * present}
        elif wanted.contrast or wanted.matching:
            states = model.query.queries_alone(keys)
        if wanted.contrast or wanted.matching:
            features["queries"] = model.query_vectors(states)
        if wanted.matching:
            features["matched"] = model.matching_logits(tokens, keys)
            features |= {"features": clip.features, "mask": clip.mask}
        return features

    def _objective(self, features: Features, keys: Keys) -> Loss:
        """See `objective`. keys: of this rank's clips, if they are in the graph of the features."""
        wanted, terms = self.wanted, {}
        with torch.no_grad():  # in the graph, a clamp would stop its gradients
            self.model.temperature.clamp_(min=LEAST_TEMPERATURE)
        loss = torch.zeros((), device=features["tokens"].device)
        for name in self.alignments:
            own = {
                key.removesuffix(f".{name}"): x
                for key, x in features.items()
                if "." not in key or key.endswith(f".{name}")
            }
            for kind, weight, term in self._terms(name, own, keys.get(name)):
                terms[f"{kind}_{name}"] = term
                loss = loss + wanted.weight(name) * weight * term
        if wanted.audio_visual_contrast:
            terms["audio_visual"] = self._audio_visual(features)
            loss = loss + wanted.audio_visual_contrast * terms["audio_visual"]
        if wanted.contrast or wanted.matching:
            terms["temperature"] = self.model.temperature.detach().clone()
            if not loss.requires_grad:  # no clip of the batch has what an alignment reads
                loss = loss + 0.0 * features[f"queries.{self.alignments[0]}"].sum()
        return loss, terms

    def _terms(
        self, name: Alignment, features: Features, keys: ClipKeys | None
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Yield name, weight and value of each loss of an alignment."""
        wanted = self.wanted
        if language := wanted.language_weight(name, self.modalities):
            words = features["words"].sum().clamp(min=1)
            yield "language", language, features["language"].sum() / words
        rows = features["present"].nonzero().squeeze(1)
        if not len(rows) or not (wanted.contrast or wanted.matching):
            return
        clips = features["clip"][rows]
        logits = contrast_logits(
            features["queries"][rows],
            features["text"][rows],
            temperature=self.model.temperature,
            gathered_gradient=wanted.gathered_gradient,
        )
        if wanted.contrast:
            same = self._positive_pairs(clips)
            yield "contrast", wanted.contrast, contrast_loss(logits, same, wanted.smoothing)
        if wanted.matching and self._has_negatives(clips, len(features["clip"])):
            drawn = draw_negatives(logits, clips, features["sample"][rows], features["dice"][rows])
            negative = negative_logits(
                self.model,
                features,
                rows,
                drawn,
                keys=keys,
                chunk=self.run.optimiser.microbatch,
            )
            yield "matching", wanted.matching, matching_loss(features["matched"][rows], negative)

    def _has_negatives(self, clips: Tensor, count: int) -> bool:
        """Return whether there are two different clips.

        clips: those that take part, of `count` in the batch. UserError where all of these are one.
        """
        several = bool((clips != clips[0]).any())
        if not several and len(clips) == count:
            raise UserError(
                f"optimiser.batch_size: all {count} samples of a batch are of one clip, so that "
                "matching has no negatives. Fix: raise it"
            )
        return several

    def _audio_visual(self, features: Features) -> Tensor:
        """Return the contrast of the mean tokens of sounds and pictures, in both directions."""
        rows = (features["has_audio"] & features["has_vision"]).nonzero().squeeze(1)
        sounds, pictures = features["audio"][rows], features["vision"][rows]
        if not len(rows):
            return sounds.sum()
        same = self._positive_pairs(features["clip"][rows])
        return contrast(sounds, pictures, CONTRAST_SCALE, same=same)

    def _positive_pairs(self, clips: Tensor) -> Tensor:
        """Return the positive pairs, bool [B, B]: of the same clip, or the diagonal."""
        if self.wanted.grouped:
            return clips[:, None] == clips
        return torch.eye(len(clips), dtype=torch.bool, device=clips.device)

    def facts(self) -> dict[str, Any]:
        """Return 1 / temperature, for the metadata of the weights."""
        return {"scale": 1 / self.model.temperature.item()}


@dataclass
class CaptionTask:
    """Language modelling of captions, from E_AV or the one stream of the run's modality."""

    model: CoAVT
    run: Finetune
    heads: ClassVar[tuple[str, ...]] = ()

    def loss(self, batch: Batch) -> Loss:
        """Return the mean cross-entropy of the words."""
        objective = self.run.objective
        assert isinstance(objective, Objective)
        own = self.model.encode_clips(batch, self.run.modalities)
        (clip,) = self.model.whole(own).values()
        tokens = self.model.text_ids.trimmed(batch["tokens"])
        loss, _ = self.model.language_loss(tokens, clip, objective.language_smoothing)
        return loss.mean(), {}

    def targets(self, batch: Batch) -> int:
        """Return the number of tokens to predict."""
        return int(self.model.text_ids.valid(batch["tokens"])[:, 1:].sum())

    def facts(self) -> dict[str, Any]:
        """Return no facts."""
        return {}
