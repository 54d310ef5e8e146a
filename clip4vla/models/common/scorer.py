"""The interface by which queries and clips of a split are compared."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.similarity import across


class Scorer(ABC):
    """Features of texts and clips, each computed once, and the similarities of any of them.

    joint: every pair passes through an encoder, so padding is expensive. second: names of features
    that only `rescored` reads. vectors: for each similarity of a text that is a product of two
    vectors, or the largest of several, the name of the clip's.
    """

    joint: bool = False
    second: tuple[str, ...] = ()
    vectors: Mapping[str, str] = {}

    @abstractmethod
    def clip_features(self, encoded: Encoded) -> Features:
        """Return the features of clips, from `ClipModel.encode_clips`."""

    def alone_features(self, encoded: Encoded) -> Features:
        """Return features of clips that are encoded by one modality, to be compared with another.

        They are named by the modality. By default those of `clip_features`.
        """
        return self.clip_features(encoded)

    @abstractmethod
    def text_features(self, tokens: Tensor) -> Features:
        """Return the features of texts, from token ids [B, L]."""

    @abstractmethod
    def scores(self, queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
        """Return similarities by name, float32 [Q, N].

        queries: those of texts (the names are `t_va`, `t_v`, `t_a`), or of clips by one modality
        alone, while `clips` are encoded by the other (`a_v`, `v_a`). A family whose model
        does not compare modalities is only asked for texts.

        `clips` has `has_audio` [N], unless all of them have audio. Called outside of autocast,
        because half precision would cause ties.
        """

    def scored_on(self, device: torch.device) -> torch.device:
        """Return the device to score on when the model is on `device`."""
        return device


class SecondScorer(Scorer):
    """A scorer that scores pairs again, of a family whose model `rescores`."""

    @abstractmethod
    def rescored(self, queries: Features, clips: Features, pairs: Tensor) -> Tensor:
        """Return second scores float32 [P] of pairs [P, 2] of a text and a clip, by their rows.

        Features and pairs are on the model's device. Called outside of autocast, like `scores`.
        """


class PooledScorer(Scorer):
    """Cosines of pooled vectors: t_va is the mean of t_v and t_a (facts 5.1)."""

    vectors: Mapping[str, str] = {"t_v": "vision", "t_a": "audio"}

    def __init__(self, model: ClipModel):
        self.model = model

    def clip_features(self, encoded: Encoded) -> Features:
        """Return one vector [B, D] for each modality."""
        return {name: pool(x, mask) for name, (x, mask) in encoded.items()}

    def text_features(self, tokens: Tensor) -> Features:
        """Return the normalised features of whole texts, [B, D]."""
        return {"text": normalise(self.model.encode_text(tokens)[1])}

    def scores(self, queries: Features, clips: Features, scale: float) -> dict[str, Tensor]:
        """See `Scorer.scores`."""
        if "text" not in queries:
            return across(queries, clips, scale)
        vision, audio = clips.get("vision"), clips.get("audio")
        return self.model.compare(queries["text"], vision, audio, scale, clips.get("has_audio"))

    def scored_on(self, device: torch.device) -> torch.device:
        """See `ClipModel.compared_on`."""
        return self.model.compared_on(device)
