"""What CLIP4VLA learns: one class for each task with its loss (paper eqs 1-5)."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.config.run import Finetune, Pretrain
from clip4vla.loading.tokens import END, PAD
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.model import CLIP4VLA, INITIAL_SCALE
from clip4vla.models.clip4vla.scorer import PAIR_FUSIONS
from clip4vla.models.clip4vla.settings import MIXING_FUSIONS, Model
from clip4vla.models.common.batch_features import Features, numbers_of
from clip4vla.models.common.encoded import Encoded, Sequence
from clip4vla.models.common.gather import gather, local_rows
from clip4vla.models.common.losses import contrast, intra_modal, nce
from clip4vla.models.common.parts import learning_parts
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.task import Batch, ContrastiveTask, Loss

WEIGHTS = {  # of terms that do not count once (facts 5.3)
    "repaired": {},
    "released": {"vision_audio": 2.0, "text_vision": 0.0},
}


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

    def facts(self) -> dict[str, Any]:
        """Return the scale that the weights' metadata states."""
        return {"scale": torch.as_tensor(self.scale()).item()}

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

    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Pooled vectors [B, D] of what the terms compare."""
        objective, model = self.run.objective, self.model
        wanted = learning_parts(model) if again else Model.PARTS
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

    def _clip_vectors(self, batch: Batch, wanted: Container[str]) -> Features:
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
        same, audio, terms = self._same(features), features["audio"], {}

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
        weights = WEIGHTS[objective.second_stage]
        weighted = (weights.get(name, 1.0) * term for name, term in terms.items())
        loss = sum(weighted, start=torch.zeros((), device=audio.device))
        return loss, terms | self._learned(scale)


@dataclass
class RetrievalTask(ClipTask):
    """Texts against clips of vision, audio or both, by the run's fusion (facts 5.4, 7)."""

    model: CLIP4VLA
    run: Finetune
    heads: ClassVar[tuple[str, ...]] = ("fusion.", "gate.", "logit_scale")

    @property
    def fusion(self) -> str:
        """How texts and clips are compared."""
        assert isinstance(self.run.model, Model)
        return self.run.model.fusion

    def encode(self, batch: Batch, again: bool = False) -> Features:
        """Vectors [B, D] of texts and clips; sequences and masks where pairs are scored jointly."""
        model, fusion = self.model, self.fusion
        mixes = fusion in MIXING_FUSIONS  # every modality passes the joint encoder
        wanted = learning_parts(model) if again and not mixes else Model.PARTS
        features = {"clip": numbers_of(batch["clip_id"]).to(batch["tokens"].device)}
        features["has_audio"] = batch["has_audio"]
        if "text" in wanted:
            words, end = model.encode_text(batch["tokens"])  # [B, L, D], [B, D]
            if fusion == "local_to_local":
                features |= {"text": words, "text_mask": batch["tokens"] != PAD}
            else:
                features["text"] = end if fusion == "tight" else normalise(end)
        modalities = [modality for modality in self.run.modalities if modality in wanted]
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
        """One contrastive term on t_va, t_v or t_a."""
        scale = self.scale()
        scores = self._scores(features, scale)
        loss = nce(scores, self.run.objective.symmetric, self._same(features))
        return loss, self._learned(scale)

    def _scores(self, features: Features, scale: float | Tensor) -> Tensor:
        """Similarities of the batch's texts (rows) with its clips: [B, B]."""
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
        """Each rank passes its own texts through the joint encoder, with all clips."""
        fusion, rows = self.model.fusion, local_rows(len(features["text"]))
        assert fusion is not None
        clips: Encoded = {
            name: Sequence(features[name], features[f"{name}_mask"])
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
        """Cross-entropy of the next token: from [start, words] to [words, end].

        Pads are no targets unless `pad_loss`, with which a pad follows the end (released).
        """
        tokens = batch["tokens"]  # [B, L]
        words, following = tokens[:, :-1], tokens[:, 1:]  # [B, L - 1]
        words = words.masked_fill(words == END, PAD)  # the end is predicted, never read
        features, _ = self.model.encode_text(words)  # [B, L - 1, D]
        clips = self.model.encode_clips(batch, self.run.modalities)
        captioner = self.model.captioner
        assert captioner is not None
        hidden = captioner.hidden(features, words != PAD, clips)  # [B, L - 1, D]
        # Most positions are padding, and the vocabulary makes the largest product of all.
        counted = self._counted(following)
        logits = captioner.head(hidden[counted])  # [targets, V]
        return cross_entropy(logits.float(), following[counted]), {}

    def targets(self, batch: Batch) -> int:
        """Tokens to predict."""
        return int(self._counted(batch["tokens"][:, 1:]).sum())

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def _counted(self, wanted: Tensor) -> Tensor:
        """Which of the next tokens [B, L] are targets: bool [B, L]."""
        if self.run.pad_loss:
            return torch.ones_like(wanted, dtype=torch.bool)
        return wanted != PAD
