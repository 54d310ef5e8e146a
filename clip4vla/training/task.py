"""What a model learns: one class per task, each owning the model and the loss (paper eqs 1-5)."""

from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.sections import GATES, MIXING_FUSIONS, PARTS
from clip4vla.inference.captioning import generate
from clip4vla.inference.features import ClipFeatures, encode_clips
from clip4vla.inference.gallery import Gallery
from clip4vla.inference.probe import predict, probe_inputs
from clip4vla.loading.loader import WHOLE, Part
from clip4vla.loading.samples import ClipSamples, Item
from clip4vla.loading.tokenizer import END, PAD
from clip4vla.metrics.captions import score_captions
from clip4vla.metrics.classification import accuracy
from clip4vla.metrics.text_clip import (
    captions_of,
    directions,
    score_retrieval,
    similarity_name,
)
from clip4vla.models.clip4vla.decoding import Decoding
from clip4vla.models.clip4vla.model import CLIP4VLA, INITIAL_SCALE, learning_parts
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.similarity import similarities
from clip4vla.training.features import Features, numbers_of
from clip4vla.training.gather import gather, own_rows
from clip4vla.training.gradients import ContrastiveTask, Loss
from clip4vla.training.losses import contrast, intra_modal, nce

PAIR_FUSIONS = ("tight", "local_to_local")  # text and clip pass the joint encoder together
BEST_OF_THREE = "best_of_three_R1"
WEIGHTS = {  # of terms that do not count once (facts 5.3)
    "repaired": {},
    "released": {"vision_audio": 2.0, "text_vision": 0.0},
}


@dataclass
class Validation:
    """Clips to validate on (one sample each) and what belongs to them."""

    samples: ClipSamples
    pairs: list[Item]  # (clip, caption) items of retrieval
    references: dict[str, list[str]]  # captions of captioning
    device: torch.device
    workers: int
    part: Part = WHOLE  # of the clips, that this rank encodes


class ClipTask(ContrastiveTask):
    """What pre-training and retrieval have in common: towers, and how the clips are compared."""

    model: CLIP4VLA
    run: Pretrain | Finetune

    def scale(self) -> float | Tensor:
        """1 / temperature: the constant, or CLIP's learned one."""
        if self.run.objective.temperature == "fixed":
            return self.run.objective.scale
        with torch.no_grad():  # not in the graph, where a clamp would end its learning
            self.model.logit_scale.clamp_(max=INITIAL_SCALE)
        return self.model.logit_scale.exp()

    def _same(self, features: Features) -> Tensor | None:
        """Which pairs are positives: bool [B, B]; None: the diagonal alone."""
        if not self.run.objective.multi_positive:
            return None
        return features["clip"][:, None] == features["clip"]

    def _learned(self, scale: float | Tensor) -> dict[str, Tensor]:
        """A learned scale, for the curve."""
        return {"scale": scale} if isinstance(scale, Tensor) else {}


@dataclass
class PretrainTask(ClipTask):
    """Inter-modal and intra-modal contrast (facts 5.3; paper, Pre-training).

    Stage 1 sums S(t_a) + S(a_v) + AA. Where CLIP learns too (stage 2) S(t_v) is added: the released
    code computes it but adds a_v twice instead, which lets text and vision drift apart. Options:
    that released sum, and S(t_t) + S(v_v).
    """

    model: CLIP4VLA
    run: Pretrain
    heads: ClassVar[tuple[str, ...]] = ("logit_scale",)
    selects: ClassVar[str] = ""

    def encode(self, batch: dict, again: bool = False) -> Features:
        """Pooled vectors [B, D] of what the terms compare."""
        objective, model = self.run.objective, self.model
        wanted = learning_parts(model) if again else PARTS
        features = {"clip": numbers_of(batch["clip_id"]).to(batch["tokens"].device)}
        if objective.inter and "text" in batch:  # CLIP is frozen: computed before
            features |= {"text": batch["text"], "vision": batch["vision"]}
        elif objective.inter:
            features |= self._clip_vectors(batch, wanted)
        if "audio" in wanted:
            share, mask = batch["nonverbal_share"], batch["audio_mask"]
            for name in ("audio", "masked_audio") if objective.intra else ("audio",):
                features[name] = pool(model.encode_audio(batch[name], mask, share), mask)
        return features

    def _clip_vectors(self, batch: dict, wanted: Container[str]) -> Features:
        """What CLIP's own towers say: [B, D] each."""
        features = {}
        if "text" in wanted:
            features["text"] = normalise(self.model.encode_text(batch["tokens"])[1])
        if "vision" in wanted:
            frames = self.model.encode_vision(batch["frames"], batch["frame_mask"])
            features["vision"] = pool(frames, batch["frame_mask"])
        return features

    def objective(self, features: Features) -> Loss:
        """Sum of the terms, each with weight 1 unless the released second stage says otherwise."""
        objective, scale = self.run.objective, self.scale()
        both = scale, objective.symmetric, self._same(features)
        audio = features["audio"]
        terms = {}
        if objective.inter:
            text, vision = features["text"], features["vision"]
            terms["text_audio"] = contrast(text, audio, *both)
            terms["vision_audio"] = contrast(vision, audio, *both)
            if self.run.trainable == "all":
                terms["text_vision"] = contrast(text, vision, *both)
        if objective.self_similarity:
            terms["text_text"] = contrast(text, text, *both)
            terms["vision_vision"] = contrast(vision, vision, *both)
        if objective.intra:
            terms["audio_audio"] = intra_modal(audio, features["masked_audio"], scale)
        weights = WEIGHTS[objective.second_stage]
        loss = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        return loss, terms | self._learned(scale)

    def validation_part(self) -> list:
        """Nothing: pre-training has no validation (facts 6.3)."""
        return []

    def validate(self, parts: list) -> dict[str, float]:
        """Nothing."""
        return {}


@dataclass
class RetrievalTask(ClipTask):
    """Texts against clips of vision, audio or both, by the run's fusion (facts 5.4, 7)."""

    model: CLIP4VLA
    run: Finetune
    validation: Validation | None
    heads: ClassVar[tuple[str, ...]] = ("fusion.", "gate.", "logit_scale")

    @property
    def selects(self) -> str:
        """R@1 of text -> clip."""
        if self.run.selection == "best_test_as_paper":
            return BEST_OF_THREE
        return f"{directions(self.run.modalities)[0]}_R1"

    def encode(self, batch: dict, again: bool = False) -> Features:
        """Vectors [B, D] of texts and clips; sequences and masks where pairs are scored jointly."""
        model, fusion = self.model, self.run.model.fusion
        mixes = fusion in MIXING_FUSIONS  # every modality passes the joint encoder
        wanted = learning_parts(model) if again and not mixes else PARTS
        features = {"clip": numbers_of(batch["clip_id"]).to(batch["tokens"].device)}
        features["has_audio"] = batch["has_audio"]
        if "text" in wanted:
            words, end = model.encode_text(batch["tokens"])  # [B, L, D], [B, D]
            if fusion == "local_to_local":
                features |= {"text": words, "text_mask": batch["tokens"] != PAD}
            else:
                features["text"] = end if fusion == "tight" else normalise(end)
        modalities = [modality for modality in self.run.modalities if modality in wanted]
        vision, vision_mask, audio, audio_mask = seen = encode_clips(model, batch, modalities)
        if mixes:
            vision, audio = model.fusion.mix(fusion)(*seen)
        for name, x, mask in (("vision", vision, vision_mask), ("audio", audio, audio_mask)):
            if x is not None and fusion in PAIR_FUSIONS:
                features |= {name: x, f"{name}_mask": mask}
            elif x is not None:
                features[name] = pool(x, mask)
        return features

    def objective(self, features: Features) -> Loss:
        """One contrastive term on t_va, t_v or t_a."""
        scale = self.scale()
        scores = self._scores(features, scale)
        loss = nce(scores, self.run.objective.symmetric, self._same(features))
        return loss, self._learned(scale)

    def _scores(self, features: Features, scale: float | Tensor) -> Tensor:
        """Similarities of the batch's texts (rows) with its clips: [B, B]."""
        model, fusion = self.model, self.run.model.fusion
        if fusion in PAIR_FUSIONS:
            return self._pair_scores(features, scale)
        compare = model.gate if fusion in GATES else similarities
        seen = features.get("vision"), features.get("audio")
        found = compare(features["text"], *seen, scale, features["has_audio"])
        return found[similarity_name(self.run.modalities)]

    def _pair_scores(self, features: Features, scale: float | Tensor) -> Tensor:
        """Each rank passes its own texts through the joint encoder, with all clips."""
        fusion, rows = self.model.fusion, own_rows(len(features["text"]))
        names = ("vision", "vision_mask", "audio", "audio_mask")
        seen = [features.get(name) for name in names]
        text = features["text"][rows]
        if self.run.model.fusion == "tight":
            scores = fusion.tight(text, *seen, scale)
        else:
            scores = fusion.local_to_local(text, features["text_mask"][rows], *seen, scale)
        return gather({"scores": scores})["scores"]

    def validation_part(self) -> list:
        """This rank's part of the clips, encoded."""
        return [] if self.validation is None else self._gallery().encoded(self.validation.part)

    def validate(self, parts: list) -> dict[str, float]:
        """Recalls and ranks of both directions.

        Selection as in the paper is by the largest R@1 of t_va, t_v and t_a (facts 7.5).
        """
        if self.validation is None:
            return {}
        gallery = self._gallery()
        captions, targets = captions_of(self.validation.pairs, gallery.clip_ids)
        given = targets, gallery.clip_ids, self.run.modalities
        views = gallery.views(captions, parts)
        scores = score_retrieval(views.pop(similarity_name(self.run.modalities)), *given)[0]
        if self.run.selection == "best_test_as_paper":
            recall = f"{directions(self.run.modalities)[0]}_R1"
            others = [score_retrieval(blocks, *given)[0][recall] for blocks in views.values()]
            scores[BEST_OF_THREE] = max([scores[recall], *others])
        return scores

    def _gallery(self) -> Gallery:
        found, run = self.validation, self.run
        given = found.samples, run, run.objective.scale, found.device, found.workers
        return Gallery(self.model, *given)


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
        counted = self._counted(wanted)
        logits = self.model.captioner.head(hidden[counted])  # [targets, V]
        return cross_entropy(logits.float(), wanted[counted]), {}

    def targets(self, batch: dict) -> int:
        """Tokens to predict."""
        return int(self._counted(batch["tokens"][:, 1:]).sum())

    def _counted(self, wanted: Tensor) -> Tensor:
        """Which of the next tokens [B, L] are targets: bool [B, L]."""
        if self.run.pad_loss:
            return torch.ones_like(wanted, dtype=torch.bool)
        return wanted != PAD

    def validation_part(self) -> list:
        """Captions (clip, text) of this rank's part of the clips.

        Greedy ones; as the evaluation writes them for selection as in the paper.
        """
        if self.validation is None:
            return []
        found = self.validation
        given = self.model, found.samples, self.run.modalities, found.device, found.workers
        decoding = Decoding(**self.run.decoding.model_dump())
        return list(generate(*given, decoding, part=found.part).items())

    def validate(self, parts: list) -> dict[str, float]:
        """BLEU, ROUGE-L and CIDEr, without METEOR, which the final evaluation has."""
        if self.validation is None:
            return {}
        found, written = self.validation, dict(parts)
        captions = {clip_id: written[clip_id] for clip_id, _, _ in found.samples.items}
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

    def targets(self, batch: dict) -> int:
        """Clips to classify."""
        return len(batch["target"])

    def validation_part(self) -> list:
        """Nothing: every rank has all features."""
        return []

    def validate(self, parts: list) -> dict[str, float]:
        """Accuracy in percent."""
        if self.validation is None:
            return {}
        predicted = predict(self.model.probe, self.validation, self.classes, self.device)
        return {"accuracy": accuracy(self.labels, predicted)}
