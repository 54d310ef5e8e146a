"""CLIP4VLA's similarities of texts and clips, by the fusion of the run (facts 7.1)."""

from typing import cast, get_args

import torch
from torch import Tensor

from clip4vla.config.sections import GATES, MIXING_FUSIONS, MixingFusion, Modality
from clip4vla.loading.tokenizer import PAD
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.pairs import score_pairs
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import Encoded, Sequence
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.similarity import similarities

PAIR_FUSIONS = ("tight", "local_to_local")  # text and clip pass the joint encoder together


def scorer_of(model: CLIP4VLA, fusion: str, modalities: list[Modality]) -> Scorer:
    """Return the scorer of a fusion."""
    kind = PairScorer if fusion in PAIR_FUSIONS else PooledScorer
    return kind(model, fusion, modalities)


class PooledScorer(Scorer):
    """Pooled vectors: as they are, after the joint encoder, or weighed by a gate."""

    def __init__(self, model: CLIP4VLA, fusion: str, modalities: list[Modality]):
        self.model, self.fusion = model, fusion
        alone = [similarity_name([modality]) for modality in modalities]
        self.names = tuple(dict.fromkeys([similarity_name(modalities), *alone]))

    def clip_features(self, encoded: Encoded) -> Features:
        """Return one vector [B, D] for each modality."""
        if self.fusion in MIXING_FUSIONS:
            encoded = self.model.fusion.mix(cast(MixingFusion, self.fusion))(encoded)
        return {name: pool(x, mask) for name, (x, mask) in encoded.items()}

    def text_features(self, tokens: Tensor) -> Features:
        """Return the normalised features of the end token, [B, D]."""
        return {"text": normalise(self.model.encode_text(tokens)[1])}

    def scores(self, name: str, texts: Features, clips: Features, scale: float) -> Tensor:
        """See `Scorer.scores`."""
        compare = self.model.gate if self.fusion in GATES else similarities
        by_name: dict[str, Tensor] = compare(
            texts["text"],
            clips.get("vision") if name != "t_a" else None,
            clips.get("audio") if name != "t_v" else None,
            scale,
            clips.get("has_audio"),
        )
        return by_name[name]

    def scored_on(self, device: torch.device) -> torch.device:
        """Return the CPU, whose products have the same bits on every machine; a gate's device."""
        return device if self.fusion in GATES else torch.device("cpu")


class PairScorer(Scorer):
    """Every pair of a text and a clip passes the joint encoder."""

    joint = True

    def __init__(self, model: CLIP4VLA, fusion: str, modalities: list[Modality]):
        self.model, self.fusion = model, fusion
        self.names = (similarity_name(modalities),)

    def clip_features(self, encoded: Encoded) -> Features:
        """Return the sequences, float32: about 50 KB a clip at width 512."""
        features: Features = {}
        for name, (x, mask) in encoded.items():
            features |= {name: x.float(), f"{name}_mask": mask}
        return features

    def text_features(self, tokens: Tensor) -> Features:
        """Return the end token (tight) or every token: 64 KB a text at 32 words of width 512."""
        words, end = self.model.encode_text(tokens)
        if self.fusion == "tight":
            return {"text": normalise(end)}
        return {"text": words.float(), "text_mask": tokens != PAD}

    def scores(self, name: str, texts: Features, clips: Features, scale: float) -> Tensor:
        """See `Scorer.scores`."""
        encoded = {
            modality: Sequence(clips[modality], clips[f"{modality}_mask"])
            for modality in get_args(Modality)
            if modality in clips
        }
        return score_pairs(
            fusion=self.model.fusion,
            text=texts["text"],
            text_mask=texts.get("text_mask"),
            clip=encoded,
            scale=scale,
        )
