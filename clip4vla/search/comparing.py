"""How the parts of a query are compared with windows, by the scorer of the checkpoint's family."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clip4vla.config.sections import Modality
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.scorer import Scorer
from clip4vla.search.blocks import Block
from clip4vla.search.encoder import SOUND, numbered

PICTURE: Modality = "vision"
ALIKE = 0.5  # weight of sound where both count alike
TEXT, BY_PICTURE, BY_SOUND, BY_BOTH = "text", "t_v", "t_a", "t_va"  # names of scorers


@dataclass(frozen=True)
class Scores:
    """Similarities of windows with a query, float32 [n]; NaN where a window cannot be compared."""

    score: Tensor
    picture: Tensor
    sound: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all three."""
        return self.score, self.picture, self.sound


Probe = tuple[str, Tensor]  # a column, and the vector [D] whose products with it matter


class Part(Protocol):
    """A part of a query: words, a sound, a picture or a video."""

    def scores(self, block: Block) -> Scores:
        """Compare it with some windows."""

    def probes(self, columns: list[str]) -> Iterator[Probe]:
        """Yield by which vectors of the index its best windows are near."""


@dataclass(frozen=True)
class TextPart:
    """Words. sound_weight None: as the checkpoint weighs sound and pictures. share: of [NB]."""

    ranker: Scorer
    features: Features  # of one text
    sound_weight: float | None
    share: float

    def scores(self, block: Block) -> Scores:
        """See `Part.scores`."""
        found = [
            _of_one(self.ranker.scores(self.features, clips | {"has_audio": block.has_sound}, 1.0))
            for clips in by_share(block.features)
        ]
        named = mixed(found, self.share)
        picture = _where(named.get(BY_PICTURE), block.has_picture)
        sound = _where(named.get(BY_SOUND), block.has_sound)
        if self.sound_weight is not None or BY_BOTH not in named:
            weight = ALIKE if self.sound_weight is None else self.sound_weight
            return Scores(weighed(picture, sound, weight), picture, sound)
        # The scorers know clips without sound, but none without a picture.
        return Scores(named[BY_BOTH].where(block.has_picture, sound), picture, sound)

    def probes(self, columns: list[str]) -> Iterator[Probe]:
        """See `Part.probes`."""
        vectors: Mapping[str, str] = self.ranker.vectors
        wanted = {name for name in (BY_PICTURE, BY_SOUND) if self.sound_weight != _other(name)}
        if self.sound_weight is None and vectors.get(BY_BOTH) in columns:
            wanted = {BY_BOTH}
        for name in sorted(wanted & set(vectors)):
            for column in _columns(vectors[name], columns):
                yield column, self.features[TEXT][0]


@dataclass(frozen=True)
class ClipPart:
    """A sound, a picture, or both of a video. vectors: [1, D] of each."""

    ranker: Scorer
    vectors: Features
    sound_weight: float
    share: float

    def scores(self, block: Block) -> Scores:
        """See `Part.scores`: like is compared with like, if the query has it."""
        picture = self._similarity(block, PICTURE, block.has_picture)
        sound = self._similarity(block, SOUND, block.has_sound)
        return Scores(weighed(picture, sound, self.sound_weight), picture, sound)

    def probes(self, columns: list[str]) -> Iterator[Probe]:
        """See `Part.probes`."""
        for name, other in ((PICTURE, 1.0), (SOUND, 0.0)):
            if self.sound_weight != other:
                for column in _columns(name, columns):
                    yield column, self.vectors[self._asked(name)][0]

    def _asked(self, modality: str) -> str:
        return modality if modality in self.vectors else next(iter(self.vectors))

    def _similarity(self, block: Block, modality: str, has: Tensor) -> Tensor:
        asked = self._asked(modality)
        mine = {asked: self.vectors[asked]}
        found = [
            _of_one(self.ranker.scores(mine, {modality: clips[modality]}, 1.0))
            for clips in by_share(block.features)
            if modality in clips
        ]
        return _where(next(iter(mixed(found, self.share).values())) if found else None, has)


def _other(name: str) -> float:
    """Return the weight of sound with which a similarity has no weight."""
    return {BY_PICTURE: 1.0, BY_SOUND: 0.0}[name]


def _columns(name: str, columns: list[str]) -> list[str]:
    """Return the columns of some vectors: of sounds there may be one for each type token."""
    names = [name, numbered(1)] if name == SOUND else [name]
    return [column for column in names if column in columns]


def by_share(features: Features) -> list[Features]:
    """Return features once for each type token of the sounds."""
    second = numbered(1)
    if second not in features:
        return [features]
    first = {name: x for name, x in features.items() if name != second}
    return [first, first | {SOUND: features[second]}]


def mixed(found: list[dict[str, Tensor]], share: float) -> dict[str, Tensor]:
    """Return what `by_share` leads to, mixed by the share of the second type token."""
    if len(found) == 1:
        return found[0]
    verbal, nonverbal = found
    return {name: (1 - share) * verbal[name] + share * nonverbal[name] for name in verbal}


def _of_one(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the similarities [n] of the only query, on the CPU."""
    return {name: x[0].cpu() for name, x in found.items()}


def _where(x: Tensor | None, has: Tensor) -> Tensor:
    """Return similarities where windows have the modality, NaN elsewhere."""
    nothing = torch.full(has.shape, torch.nan)
    return nothing if x is None else x.where(has, nothing)


def weighed(picture: Tensor, sound: Tensor, weight: float) -> Tensor:
    """Return the mean of picture and sound, weighted; one alone where a window lacks the other.

    With a weight of 0 or 1, windows without the modality that counts have NaN.
    """
    if weight in (0, 1):
        return sound if weight else picture
    both = (1 - weight) * picture + weight * sound
    return both.where(~both.isnan(), picture.where(~picture.isnan(), sound))
