"""What an index holds of a window, by a checkpoint of any family: vectors, and for second looks."""

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor

from clip4vla.common.device import autocast, to_device
from clip4vla.config.sections import Modality
from clip4vla.loading.samples import Sample
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.models.common.scorer import Scorer, SecondScorer
from clip4vla.models.common.task import Batch
from clip4vla.search.windows import Piece

if TYPE_CHECKING:
    from clip4vla.search.embedder import Embedder

CPU = torch.device("cpu")
SOUND: Modality = "audio"  # the modality whose vectors depend on the type token


class Encoder:
    """An embedder of windows, with the scorers of its family.

    shares: of [NB] in the type token, one, or both ends: the sound of a window then has a vector
    for each, `audio` and `audio_1`.
    """

    def __init__(self, embedder: "Embedder", shares: Sequence[float]):
        self.embedder, self.shares = embedder, tuple(shares)
        self.modalities = embedder.settings.modalities

    @property
    def ranker(self) -> Scorer:
        """Return the scorer that ranks all windows."""
        return self.embedder.ranker

    @cached_property
    def second(self) -> Scorer | None:
        """Return the scorer that looks at the first windows again; None: the first is the last."""
        scorer = self.embedder.scorer
        return scorer if scorer.joint or isinstance(scorer, SecondScorer) else None

    @torch.no_grad()
    def features(
        self, pieces: Sequence[Piece], second: bool = False
    ) -> tuple[Features, Features | None]:
        """Return the features of B windows on the CPU: by the ranker, and for second looks.

        second: make the latter, if the checkpoint takes second looks.
        """
        batch, model = self.batch(pieces, self.shares[0]), self.embedder.model
        with self._precision():
            encoded = model.encode_clips(batch, self.modalities)
            features = self.ranker.clip_features(encoded)
            for number, share in enumerate(self.shares[1:], 1):
                batch["nonverbal_share"] = torch.full_like(batch["nonverbal_share"], share)
                other = encoded | model.encode_clips(batch, [SOUND])
                features[numbered(number)] = self.ranker.clip_features(other)[SOUND]
            again = self.second.clip_features(encoded) if second and self.second else None
        return moved(features, CPU), None if again is None else moved(again, CPU)

    @torch.no_grad()
    def alone(self, piece: Piece, modalities: Sequence[Modality], share: float) -> Features:
        """Return vectors [1, D] of a query, for each of its modalities without the others."""
        batch = self.batch([piece], share)
        vectors: Features = {}
        for modality in modalities:
            with self._precision():
                encoded = self.embedder.model.encode_clips(batch, [modality])
                features = self.ranker.alone_features(encoded)
            if features[modality].any():
                vectors[modality] = features[modality].cpu()
        return vectors

    @torch.no_grad()
    def second_features(self, pieces: Sequence[Piece]) -> Features:
        """Return the features for second looks alone."""
        assert self.second is not None
        batch = self.batch(pieces, self.shares[0])
        with self._precision():
            encoded = self.embedder.model.encode_clips(batch, self.modalities)
            return self.second.clip_features(encoded)

    def _precision(self) -> contextlib.AbstractContextManager:
        """Return the context in which an evaluation makes features, too."""
        return autocast(self.embedder.device, self.embedder.model)

    def batch(self, pieces: Sequence[Piece], nonverbal_share: float) -> Batch:
        """Return windows as a batch, on the device, made as that of an evaluation."""
        settings = self.embedder.settings
        samples = [
            Sample(
                clip_id=str(piece.number),
                caption="",
                labels=(),
                nonverbal_share=nonverbal_share,
                has_audio=piece.log_mel is not None,
                inputs=settings.inputs.without_draws(),
                jpegs=[bytearray(jpeg) for jpeg in piece.jpegs],
                bands=settings.cache.log_mel.n_mels,
                log_mel=None if piece.log_mel is None else torch.from_numpy(piece.log_mel),
                start=None,
                masks=None,
            )
            for piece in pieces
        ]
        return to_device(self.embedder.model.processor.collate(samples), self.embedder.device)


def numbered(number: int) -> str:
    """Return the name of the vectors of sounds with the type token of this number."""
    return SOUND if number == 0 else f"{SOUND}_{number}"


def moved(features: Features, device: torch.device) -> Features:
    """Return features on a device."""
    return {name: x.to(device) for name, x in features.items()}


def bytes_of(features: Features, row: int) -> bytes:
    """Return the features of one window as the bytes of a safetensors file, halves for floats."""
    one = {name: x[row : row + 1] for name, x in features.items()}
    return save({name: _halved(x).contiguous() for name, x in one.items()})


def features_in(parts: Sequence[bytes], device: torch.device) -> Features:
    """Return the features of windows from `bytes_of` each, in float32."""
    features = joined([load(part) for part in parts])
    whole = {name: x.float() if x.is_floating_point() else x for name, x in features.items()}
    return moved(whole, device)


def _halved(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x
