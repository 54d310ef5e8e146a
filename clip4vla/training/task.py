"""What a model learns: one class per task, each owning the model and the loss (paper eqs 1-5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.config.run import GATES, Finetune, Pretrain
from clip4vla.evaluation.caption_metrics import score_captions
from clip4vla.evaluation.captioning import generate
from clip4vla.evaluation.classification import accuracy, predict, probe_inputs
from clip4vla.evaluation.features import ClipFeatures, encode_clips
from clip4vla.evaluation.similarity import Gallery
from clip4vla.evaluation.text_clip import (
    captions_of,
    directions,
    score_retrieval,
    similarity_name,
)
from clip4vla.features.samples import ClipSamples, Item
from clip4vla.features.text import END, PAD
from clip4vla.models.clip4vla import CLIP4VLA
from clip4vla.models.pooling import normalise, pool
from clip4vla.models.similarity import similarities
from clip4vla.training.losses import contrast, intra_modal, nce

Loss = tuple[Tensor, dict[str, Tensor]]


@dataclass
class Validation:
    """Clips to validate on (one sample each) and what belongs to them."""

    samples: ClipSamples
    pairs: list[Item]  # (clip, caption) items of retrieval
    references: dict[str, list[str]]  # captions of captioning
    device: torch.device
    workers: int


@dataclass
class PretrainTask:
    """Inter-modal and intra-modal contrast (facts 5.3; paper, Pre-training).

    Stage 1 sums S(t_a) + S(a_v) + AA. Where CLIP learns too (stage 2) S(t_v) is added: the released
    code computes it but adds a_v twice instead, which lets text and vision drift apart.
    """

    model: CLIP4VLA
    run: Pretrain
    heads: ClassVar[tuple[str, ...]] = ()
    selects: ClassVar[str] = ""

    def loss(self, batch: dict) -> Loss:
        """Sum of the terms, each with weight 1."""
        objective, model = self.run.objective, self.model
        share, mask = batch["nonverbal_share"], batch["audio_mask"]
        audio = pool(model.encode_audio(batch["audio"], mask, share), mask)  # [B, D]
        terms = {}
        if objective.inter:
            both = objective.scale, objective.symmetric
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.run.trainable == "all"):
                text = normalise(model.encode_text(batch["tokens"])[1])  # [B, D]
                frames = model.encode_vision(batch["frames"], batch["frame_mask"])
                vision = pool(frames, batch["frame_mask"])  # [B, D]
            terms["text_audio"] = contrast(text, audio, *both)
            terms["vision_audio"] = contrast(vision, audio, *both)
            if self.run.trainable == "all":
                terms["text_vision"] = contrast(text, vision, *both)
        if objective.intra:
            masked = pool(model.encode_audio(batch["masked_audio"], mask, share), mask)
            terms["audio_audio"] = intra_modal(audio, masked, objective.scale)
        return sum(terms.values()), terms

    def validate(self) -> dict[str, float]:
        """Nothing: pre-training has no validation (facts 6.3)."""
        return {}


@dataclass
class RetrievalTask:
    """Texts against clips of vision, audio or both, by the run's fusion (facts 5.4, 7)."""

    model: CLIP4VLA
    run: Finetune
    validation: Validation | None
    heads: ClassVar[tuple[str, ...]] = ("fusion.", "gate.")

    @property
    def selects(self) -> str:
        """R@1 of text -> clip."""
        return f"{directions(self.run.modalities)[0]}_R1"

    def loss(self, batch: dict) -> Loss:
        """One contrastive term on t_va, t_v or t_a."""
        scores = self._scores(batch, self.run.objective.scale)
        return nce(scores, self.run.objective.symmetric), {}

    def _scores(self, batch: dict, scale: float) -> Tensor:
        """Similarities of the batch's texts (rows) with its clips: [B, B]."""
        model, fusion, modalities = self.model, self.run.model.fusion, self.run.modalities
        words, end = model.encode_text(batch["tokens"])  # [B, L, D], [B, D]
        seen = encode_clips(model, batch, modalities)
        if fusion == "tight":
            return model.fusion.tight(end, *seen, scale)
        if fusion == "local_to_local":
            return model.fusion.local_to_local(words, batch["tokens"] != PAD, *seen, scale)
        vision, vision_mask, audio, audio_mask = seen
        if fusion == "global_to_local":
            vision, audio = model.fusion.global_to_local(*seen)
        if vision is not None:
            vision = pool(vision, vision_mask)  # [B, D]
        if audio is not None:
            audio = pool(audio, audio_mask)  # [B, D]
        compare = model.gate if fusion in GATES else similarities
        found = compare(normalise(end), vision, audio, scale, batch["has_audio"])
        return found[similarity_name(modalities)]

    def validate(self) -> dict[str, float]:
        """Recalls and ranks of both directions."""
        if self.validation is None:
            return {}
        found, run = self.validation, self.run
        given = found.samples, run, run.objective.scale, found.device, found.workers
        gallery = Gallery(self.model, *given)
        captions, targets = captions_of(found.pairs, gallery.clip_ids)
        blocks = gallery.blocks(captions)
        return score_retrieval(blocks, targets, gallery.clip_ids, run.modalities)[0]


@dataclass
class CaptionTask:
    """Teacher forcing of the caption generator (facts 8.2)."""

    model: CLIP4VLA
    run: Finetune
    validation: Validation | None
    heads: ClassVar[tuple[str, ...]] = ("captioner.",)
    selects: ClassVar[str] = "CIDEr"

    def loss(self, batch: dict) -> Loss:
        """Cross-entropy of the next token: from [start, words] to [words, end].

        Pads are no targets unless `pad_loss`, with which a pad follows the end (released).
        """
        tokens = batch["tokens"]  # [B, L]
        given, wanted = tokens[:, :-1], tokens[:, 1:]
        given = given.masked_fill(given == END, PAD)  # the end is predicted, never read
        features, _ = self.model.encode_text(given)  # [B, L - 1, D]
        seen = encode_clips(self.model, batch, self.run.modalities)
        hidden = self.model.captioner.hidden(features, given != PAD, *seen)  # [B, L - 1, D]
        # Most positions are padding, and the vocabulary makes the largest product of all.
        counted = torch.ones_like(wanted, dtype=torch.bool) if self.run.pad_loss else wanted != PAD
        logits = self.model.captioner.head(hidden[counted])  # [targets, V]
        loss = cross_entropy(logits.float(), wanted[counted])
        return loss, {}

    def validate(self) -> dict[str, float]:
        """BLEU, ROUGE-L and CIDEr of greedy captions; METEOR only at the final evaluation."""
        if self.validation is None:
            return {}
        found = self.validation
        given = self.model, found.samples, self.run.modalities, found.device, found.workers
        captions = generate(*given)
        references = {clip_id: found.references[clip_id] for clip_id in captions}
        groups = {"val": list(captions)}
        return score_captions(captions, references, groups, with_meteor=False)["val"]


@dataclass
class ClassificationTask:
    """A linear probe on features of frozen towers, computed once (facts 9)."""

    model: CLIP4VLA
    classes: list[str]
    train: ClipFeatures
    validation: ClipFeatures | None
    labels: list[str]  # of the validation clips
    device: torch.device
    heads: ClassVar[tuple[str, ...]] = ("probe.",)
    selects: ClassVar[str] = "accuracy"

    def loss(self, batch: dict) -> Loss:
        """Cross-entropy of the classes."""
        given = probe_inputs(self.train, batch["index"].cpu())
        logits = self.model.probe(*(None if x is None else x.to(self.device) for x in given))
        return cross_entropy(logits.float(), batch["target"]), {}

    def validate(self) -> dict[str, float]:
        """Accuracy in percent."""
        if self.validation is None:
            return {}
        predicted = predict(self.model.probe, self.validation, self.classes, self.device)
        return {"accuracy": accuracy(self.labels, predicted)}
