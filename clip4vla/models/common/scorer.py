"""How texts and clips of a split are compared: what each family gives for retrieval."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import Encoded


class Scorer(ABC):
    """Features of texts and clips, each made once, and similarities of any of them.

    names: the similarities it gives (`t_va`, `t_v`, `t_a`), the run's own first. joint: every pair
    passes an encoder, so scores are expensive: they are made once and kept.
    """

    names: tuple[str, ...]
    joint: bool = False

    @abstractmethod
    def clip_features(self, encoded: Encoded) -> Features:
        """Return all that is kept of clips, from `ClipModel.encode_clips`."""

    @abstractmethod
    def text_features(self, tokens: Tensor) -> Features:
        """Return all that is kept of texts, from token ids [B, L]."""

    @abstractmethod
    def scores(self, name: str, texts: Features, clips: Features, scale: float) -> Tensor:
        """Return the similarities of one name, float32 [Q, N].

        Clips also have `has_audio` [N], unless all of them have. Called outside of autocast, as
        half precision would make ties.
        """

    def scored_on(self, device: torch.device) -> torch.device:
        """Return the device to score on, when the model is on `device`."""
        return device
