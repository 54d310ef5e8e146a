"""The training tasks of CLIP4VLA with their losses (paper eqs 1-5)."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.common.device import full_precision
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.loading.masking import masked
from clip4vla.loading.tokens import END, PAD
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.model import CLIP4VLA, MAX_LOGIT_SCALE
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.settings import MIXING_FUSIONS, PAIR_FUSIONS, Model
from clip4vla.models.common.batch_features import Features, numbers_of
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.gather import gather, local_rows
from clip4vla.models.common.losses import contrast, intra_modal, nce
from clip4vla.models.common.parts import learning_parts
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.task import Batch, ContrastiveTask, Loss

TERM_WEIGHTS = {  # weights of loss terms that differ from 1 (facts 5.3)
    "repaired": {},
    "released": {"vision_audio": 2.0, "text_vision": 0.0},
}


class ClipTask(ContrastiveTask):
    """The common base of pre-training and retrieval: the scale and the positive pairs."""

    model: CLIP4VLA
    run: Pretrain | Finetune

    @property
    def wanted(self) -> Objective:
        """Return the objective of the run."""
        assert isinstance(self.run.objective, Objective)
        return self.run.objective

    def scale(self) -> float | Tensor:
        """Return 1 / temperature: the constant, or CLIP's learned one."""
        if self.wanted.temperature == "fixed":
            return self.wanted.scale
        with torch.no_grad():  # in the graph, a clamp would stop its gradients
            self.model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return self.model.logit_scale.exp()

    def facts(self) -> dict[str, Any]:
        """Return the scale, for the metadata of the weights."""
        return {"scale": torch.as_tensor(self.scale()).item()}

    def _positive_pairs(self, features: Features) -> Tensor | None:
        """Return the positive pairs, bool [B, B]; None: the diagonal only."""
        if not self.wanted.multi_positive:
            return None
        return features["clip"][:, None] == features["clip"]

    def _curve_terms(self, scale: float | Tensor) -> dict[str, Tensor]:
        """Return a learned scale, for the curve."""
        return {"scale": scale} if isinstance(scale, Tensor) else {}


@dataclass
class PretrainTask(ClipTask):
    """Inter-modal and intra-modal contrast (facts 5.3; paper, Pre-training).

    Stage 1 sums S(t_a) + S(a_v) + AA. Where CLIP learns, too (stage 2), S(t_v) is added: the
    released code computes it but adds a_v twice instead, which lets text and vision drift apart.
    Options: that released sum, and S(t_t) + S(v_v).
    """

    model: CLIP4VLA
    run: Pretrain
    heads: ClassVar[tuple[str, ...]] = ("logit_scale",)

    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Return the pooled vectors [B, D] that the terms compare."""
        objective, model = self.wanted, self.model
        parts = learning_parts(model) if again else Model.PARTS
        features = {"clip": numbers_of(batch["clip_id"]).to(batch["tokens"].device)}
        if objective.inter and "text" in batch:  # CLIP is frozen: cached vectors
            features |= {"text": batch["text"], "vision": batch["vision"]}
        elif objective.inter:
            features |= self._clip_vectors(batch, parts)
        if "audio" in parts:
            features |= self._audio_vectors(batch, objective.intra)
        return features

    def _audio_vectors(self, batch: Batch, intra: bool) -> Features:
        """Return the pooled vectors [B, D] of the views of the sound, which pass at once."""
        images, mask, share = batch["audio"], batch["audio_mask"], batch["nonverbal_share"]
        if not intra:
            return {"audio": pool(self.model.encode_audio(images, mask, share), mask)}
        with full_precision(images):  # autocast to bfloat16 refuses to join float16 tensors
            other = batch["masked_audio"] if "masked_audio" in batch else masked(batch)
            images = torch.cat([images, other])
        mask, share = mask.repeat(2, 1), share.repeat(2)
        audio, masked_audio = pool(self.model.encode_audio(images, mask, share), mask).chunk(2)
        return {"audio": audio, "masked_audio": masked_audio}

    def _clip_vectors(self, batch: Batch, parts: Container[str]) -> Features:
        """Return the pooled vectors of CLIP's own towers, [B, D] each."""
        features = {}
        if "text" in parts:
            features["text"] = normalise(self.model.encode_text(batch["tokens"])[1])
        if "vision" in parts:
            frames = self.model.encode_vision(batch["frames"], batch["frame_mask"])
            features["vision"] = pool(frames, batch["frame_mask"])
        return features

    def objective(self, features: Features) -> Loss:
        """Return the sum of the terms with weight 1 each, except in the released second stage."""
        objective, scale = self.wanted, self.scale()
        same, audio, terms = self._positive_pairs(features), features["audio"], {}

        def between(x: Tensor, y: Tensor) -> Tensor:
            return contrast(x, y, scale, objective.symmetric, same)

        if objective.inter:
            text, vision = features["text"], features["vision"]
            terms["text_audio"] = between(text, audio)
            terms["vision_audio"] = between(vision, audio)
            if self.run.trainable == "all":
                terms["text_vision"] = between(text, vision)
        if objective.self_similarity:
            terms["text_text"] = between(text, text)
            terms["vision_vision"] = between(vision, vision)
        if objective.intra:
            terms["audio_audio"] = intra_modal(audio, features["masked_audio"], scale)
        weights = TERM_WEIGHTS[objective.second_stage]
        weighted = (weights.get(name, 1.0) * term for name, term in terms.items())
        loss = sum(weighted, start=torch.zeros((), device=audio.device))
        return loss, terms | self._curve_terms(scale)


@dataclass
class RetrievalTask(ClipTask):
    """Contrast of texts with clips of vision, audio or both, by the run's fusion (facts 5.4, 7)."""

    model: CLIP4VLA
    run: Finetune
    heads: ClassVar[tuple[str, ...]] = ("fusion.", "gate.", "logit_scale")

    @property
    def fusion(self) -> str:
        """Return the fusion of the run."""
        assert isinstance(self.run.model, Model)
        return self.run.model.fusion

    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Return vectors [B, D] of texts and clips; sequences with masks for pair fusions."""
        model, fusion = self.model, self.fusion
        mixes = fusion in MIXING_FUSIONS  # every modality passes the joint encoder
        parts = learning_parts(model) if again and not mixes else Model.PARTS
        features = {"clip": numbers_of(batch["clip_id"]).to(batch["tokens"].device)}
        features["has_audio"] = batch["has_audio"]
        if "text" in parts:
            words, end = model.encode_text(batch["tokens"])  # [B, L, D], [B, D]
            if fusion == "local_to_local":
                features |= {"text": words, "text_mask": batch["tokens"] != PAD}
            else:
                features["text"] = end if fusion == "tight" else normalise(end)
        modalities = [modality for modality in self.run.modalities if modality in parts]
        encoded = model.encode_clips(batch, modalities)
        if fusion in MIXING_FUSIONS:
            assert model.fusion is not None
            encoded = model.fusion.mix(fusion)(encoded)
        for name, (x, mask) in encoded.items():
            if fusion in PAIR_FUSIONS:
                features |= {name: x, f"{name}_mask": mask}
            else:
                features[name] = pool(x, mask)
        return features

    def objective(self, features: Features) -> Loss:
        """Return one contrastive term, on t_va, t_v or t_a."""
        scale = self.scale()
        scores = self._scores(features, scale)
        loss = nce(scores, self.wanted.symmetric, self._positive_pairs(features))
        return loss, self._curve_terms(scale)

    def _scores(self, features: Features, scale: float | Tensor) -> Tensor:
        """Return the similarities of the batch's texts (rows) with its clips: [B, B]."""
        model, fusion = self.model, self.fusion
        if fusion in PAIR_FUSIONS:
            return self._pair_scores(features, scale)
        by_name = model.compare(
            features["text"],
            features.get("vision"),
            features.get("audio"),
            scale,
            features["has_audio"],
        )
        return by_name[similarity_name(self.run.modalities)]

    def _pair_scores(self, features: Features, scale: float | Tensor) -> Tensor:
        """Return the pair scores [B, B]; each rank scores its own texts with all clips."""
        fusion, rows = self.model.fusion, local_rows(len(features["text"]))
        assert fusion is not None
        clips: Encoded = {
            name: FeatureSequence(features[name], features[f"{name}_mask"])
            for name in ("vision", "audio")
            if name in features
        }
        text = features["text"][rows]
        if self.fusion == "tight":
            scores = fusion.tight(text, clips, scale)
        else:
            scores = fusion.local_to_local(text, features["text_mask"][rows], clips, scale)
        return gather({"scores": scores})["scores"]


@dataclass
class CaptionTask:
    """Teacher forcing of the caption generator (facts 8.2)."""

    model: CLIP4VLA
    run: Finetune
    heads: ClassVar[tuple[str, ...]] = ("captioner.",)

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy of the next token: from [start, words] to [words, end].

        Pads are targets only with `pad_loss`, where a pad follows the end (released).
        """
        tokens = batch["tokens"]  # [B, L]
        words, following = tokens[:, :-1], tokens[:, 1:]  # [B, L - 1]
        words = words.masked_fill(words == END, PAD)  # the end is a target, never an input
        features, _ = self.model.encode_text(words)  # [B, L - 1, D]
        clips = self.model.encode_clips(batch, self.run.modalities)
        captioner = self.model.captioner
        assert captioner is not None
        hidden = captioner.hidden(features, words != PAD, clips)  # [B, L - 1, D]
        # Most positions are padding, and the product with the vocabulary is the most expensive.
        targets = self._is_target(following).nonzero(as_tuple=True)
        logits = captioner.head(hidden[targets])  # [targets, V]
        return cross_entropy(logits.float(), following[targets]), {}

    def targets(self, batch: Batch) -> int:
        """Return the number of tokens to predict."""
        return int(self._is_target(batch["tokens"][:, 1:]).sum())

    def facts(self) -> dict[str, Any]:
        """Return no facts."""
        return {}

    def _is_target(self, following: Tensor) -> Tensor:
        """Return which of the next tokens [B, L] are targets: bool [B, L]."""
        if self.run.pad_loss:
            return torch.ones_like(following, dtype=torch.bool)
        return following != PAD
