"""CLIP4VLA's similarities of texts and clips for each fusion (facts 7.1)."""

from typing import get_args

from torch import Tensor

from clip4vla.config.sections import Modality
from clip4vla.loading.tokens import PAD
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.clip4vla.settings import MIXING_FUSIONS, PAIR_FUSIONS, MixingFusion, PairFusion
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.pooling import normalise
from clip4vla.models.common.scorer import PooledScorer, Scorer


def scorer_of(model: CLIP4VLA, fusion: str, modalities: list[Modality]) -> Scorer:
    """Return the scorer of a fusion."""
    if fusion in PAIR_FUSIONS:
        return PairScorer(model, fusion, modalities)
    if fusion in MIXING_FUSIONS:
        return MixingScorer(model, fusion)
    return PooledScorer(model)


class MixingScorer(PooledScorer):
    """A scorer whose clips pass the joint encoder before they are pooled."""

    def __init__(self, model: CLIP4VLA, fusion: MixingFusion):
        super().__init__(model)
        assert model.fusion is not None
        self.mix = model.fusion.mix(fusion)

    def clip_features(self, encoded: Encoded) -> Features:
        """Return one vector [B, D] for each modality."""
        return super().clip_features(self.mix(encoded))


class PairScorer(Scorer):
    """A scorer that passes every pair of a text and a clip through the joint encoder."""

    joint = True

    def __init__(self, model: CLIP4VLA, fusion: PairFusion, modalities: list[Modality]):
        self.model, self.fusion = model, fusion
        self.name = similarity_name(modalities)

    def clip_features(self, encoded: Encoded) -> Features:
        """Return the sequences in float32, about 50 KB per clip at width 512."""
        features: Features = {}
        for name, (x, mask) in encoded.items():
            features |= {name: x.float(), f"{name}_mask": mask}
        return features

    def text_features(self, tokens: Tensor) -> Features:
        """Return the end token (tight) or every token: 64 KB per text at 32 words of width 512."""
        words, end = self.model.encode_text(tokens)
        if self.fusion == "tight":
            return {"text": normalise(end)}
        return {"text": words.float(), "text_mask": tokens != PAD}

    def scores(self, queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
        """See `Scorer.scores`."""
        encoded = {
            modality: FeatureSequence(clips[modality], clips[f"{modality}_mask"])
            for modality in get_args(Modality)
            if modality in clips
        }
        assert self.model.fusion is not None
        scores = score_pairs(
            fusion=self.model.fusion,
            text=queries["text"],
            text_mask=queries.get("text_mask"),
            clip=encoded,
            scale=scale,
        )
        return {self.name: scores}
