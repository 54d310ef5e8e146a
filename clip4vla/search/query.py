"""Find windows of an index by words, a sound, a picture or a video."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Modality
from clip4vla.inference.features import text_features
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.scorer import Scorer
from clip4vla.search.asked import read_image, read_media
from clip4vla.search.encoder import SOUND, numbered
from clip4vla.search.index import Block, Index, Window
from clip4vla.search.store import among

PICTURE: Modality = "vision"
ALIKE = 0.5  # weight of sound for a query that has both


@dataclass(frozen=True)
class Query:
    """What is looked for: at least one of a text, a sound, a picture and a video.

    sound_weight: of the sound of windows against their pictures, 0..1. None: as the checkpoint
    weighs them for a text, sounds alone for a sound, pictures alone for a picture, both alike for a
    video. nonverbal_share: of the type token, from 0 for speech [VB] to 1 for other sound [NB];
    None: as in training.
    """

    text: str | None = None
    audio: Path | None = None
    image: Path | None = None
    video: Path | None = None
    like: int | None = None  # the row of a window
    sound_weight: float | None = None
    nonverbal_share: float | None = None

    def __post_init__(self) -> None:
        files = self.audio or self.image or self.video
        if not (self.text and self.text.strip()) and not files and self.like is None:
            raise UserError("query: empty. Fix: give words, a sound, a picture or a video")
        for name in ("sound_weight", "nonverbal_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name}: {value} is not valid. Fix: give 0 to 1")


@dataclass(frozen=True)
class Hit:
    """A window that was found. picture, sound: its similarities by either, None where it has none.

    score: by which hits are ranked; of `rescored` ones it is the second, which has another unit.
    """

    window: Window
    score: float
    picture: float | None
    sound: float | None
    rescored: bool


@dataclass(frozen=True)
class Scores:
    """Similarities of windows with a query, float32 [n]; NaN where a window cannot be compared."""

    score: Tensor
    picture: Tensor
    sound: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all three."""
        return self.score, self.picture, self.sound


def find(index: Index, query: Query, top: int = 10, apart: bool = True) -> list[Hit]:
    """Return the `top` windows that fit a query best, best first.

    apart: of windows of a file that overlap, return the best alone. Raises UserError for a query
    that cannot be read, and for options that have no effect with this checkpoint.
    """
    if top < 1:
        raise UserError(f"top: {top} is not valid. Fix: give 1 or more")
    comparisons = [*_comparisons(index, query)]
    share = _share(index, query)
    columns = index.vectors
    neighbours = 2 * (ceil(index.about.window / index.about.hop) - 1) if apart else 0
    best = _Best(top * (1 + neighbours))
    for block in index.blocks(columns):
        several = [compare(block, share) for compare in comparisons]
        means = [
            torch.stack(x).mean(dim=0) for x in zip(*(s.parts() for s in several), strict=True)
        ]
        best.add(block.rows, Scores(*means))
    rows = best.ranked()
    windows = {window.row: window for window in index.windows([row for row, _ in rows])}
    hits: list[Hit] = []
    for row, (score, picture, sound) in rows:
        window = windows.get(row)
        if window is None or (apart and any(_overlap(window, hit.window) for hit in hits)):
            continue
        hits.append(Hit(window, score, _known(picture), _known(sound), rescored=False))
    return hits[:top]


def _overlap(one: Window, other: Window) -> bool:
    return one.path == other.path and one.start < other.end and other.start < one.end


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


class _Best:
    """The best of all windows so far."""

    def __init__(self, most: int):
        self.most = most
        self.rows = np.empty(0, np.int64)
        self.scores = np.empty((3, 0), np.float32)

    def add(self, rows: np.ndarray, scores: Scores) -> None:
        """Take further windows. Those without a score are left out."""
        new = torch.stack(scores.parts()).numpy()
        kept = ~np.isnan(new[0])
        self.rows = np.concatenate([self.rows, rows[kept]])
        self.scores = np.concatenate([self.scores, new[:, kept]], axis=1)
        if len(self.rows) > self.most:
            order = np.lexsort((self.rows, -self.scores[0]))[: self.most]
            self.rows, self.scores = self.rows[order], self.scores[:, order]

    def ranked(self) -> list[tuple[int, tuple[float, float, float]]]:
        """Return numbers and scores, best first; of equal ones the first window."""
        order = np.lexsort((self.rows, -self.scores[0]))
        return [
            (int(self.rows[i]), tuple(map(float, self.scores[:, i])))  # type: ignore[misc]
            for i in order
        ]


Compare = Callable[[Block, float], Scores]


def _comparisons(index: Index, query: Query) -> Iterator[Compare]:
    """Yield a comparison for each part of a query."""
    ranker, share = index.encoder.ranker, _share(index, query)
    settings = index.embedder.settings
    if query.text and query.text.strip():
        features = text_features(
            index.embedder.model,
            [query.text],
            settings.inputs.max_words,
            index.embedder.device,
            features_of=ranker.text_features,
        )
        yield partial(_by_text, ranker, features, query.sound_weight)
    if query.like is not None:
        weight = ALIKE if query.sound_weight is None else query.sound_weight
        yield partial(_by_clip, ranker, _vectors_of(index, query.like, share), weight)
    asked = {
        "audio": (query.audio, [SOUND], 1.0),
        "image": (query.image, [PICTURE], 0.0),
        "video": (query.video, [PICTURE, SOUND], ALIKE),
    }
    for kind, (path, modalities, usual) in asked.items():
        if path is None:
            continue
        wanted = [name for name in modalities if name in settings.modalities]
        if not wanted:
            raise UserError(
                f"--{kind}: the checkpoint of this index reads {settings.modalities[0]} alone. "
                "Fix: search by words, or index the clips with another checkpoint"
            )
        piece = (
            read_image(path, settings) if kind == "image" else read_media(path, settings, wanted)
        )
        vectors = index.encoder.alone(piece, wanted, share)
        weight = usual if query.sound_weight is None else query.sound_weight
        yield partial(_by_clip, ranker, vectors, weight)


def _vectors_of(index: Index, row: int, share: float) -> Features:
    """Return the vectors of a window, of what it has. UserError for one that is gone."""
    for block in index.blocks(index.vectors, where=among("row", [row])):
        found = _mixed(_by_share(block.features, share), share)
        has = {name for name, x in found.items() if x.any()}
        return {name: found[name] for name in (PICTURE, SOUND) if name in has}
    raise UserError(f"window {row}: no longer in the index. Fix: search again")


def _share(index: Index, query: Query) -> float:
    """Return the share of [NB]. UserError where the index has sounds with another alone."""
    known, wanted = index.encoder.shares, query.nonverbal_share
    if wanted is not None:
        index.embedder.share_of_nb(wanted)  # whether it has an effect
    if len(known) > 1:
        trained = index.embedder.settings.nonverbal_share
        return next(x for x in (wanted, trained, 0.5) if x is not None)
    if wanted not in (None, known[0]):
        raise UserError(
            f"nonverbal_share: the index has sounds with {known[0]:g} alone. Fix: leave it out, or "
            "index the clips with --both-tokens"
        )
    return known[0]


def _by_text(
    ranker: Scorer, text: Features, sound_weight: float | None, block: Block, share: float
) -> Scores:
    """Compare a text with windows."""
    found = [
        ranker.scores(text, clips | {"has_audio": block.has_sound}, 1.0)
        for clips in _by_share(block.features, share)
    ]
    mixed = _mixed([{name: x[0] for name, x in one.items()} for one in found], share)
    picture = _where(mixed.get("t_v"), block.has_picture)
    sound = _where(mixed.get("t_a"), block.has_sound)
    if sound_weight is not None or "t_va" not in mixed:
        weight = ALIKE if sound_weight is None else sound_weight
        return Scores(_weighed(picture, sound, weight), picture, sound)
    score = mixed["t_va"].where(block.has_picture, sound)
    return Scores(score, picture, sound)


def _by_clip(
    ranker: Scorer, vectors: Features, sound_weight: float, block: Block, share: float
) -> Scores:
    """Compare a sound, a picture, or both of a video, with windows: like with like, if it can."""

    def similarity(modality: Modality, has: Tensor) -> Tensor:
        asked = modality if modality in vectors else next(iter(vectors))
        mine = {asked: vectors[asked]}
        found = [
            ranker.scores(mine, {modality: clips[modality]}, 1.0)
            for clips in _by_share(block.features, share)
            if modality in clips
        ]
        values = [{"": next(iter(one.values()))[0]} for one in found]
        return _where(_mixed(values, share)[""] if values else None, has)

    picture = similarity(PICTURE, block.has_picture)
    sound = similarity(SOUND, block.has_sound)
    return Scores(_weighed(picture, sound, sound_weight), picture, sound)


def _by_share(features: Features, share: float) -> list[Features]:
    """Return features once for each type token of the sounds."""
    second = numbered(1)
    if second not in features:
        return [features]
    first = {name: x for name, x in features.items() if name != second}
    return [first, first | {SOUND: features[second]}]


def _mixed(found: list[dict[str, Tensor]], share: float) -> dict[str, Tensor]:
    """Return similarities mixed by the share of the second type token, if there are two."""
    if len(found) == 1:
        return found[0]
    verbal, nonverbal = found
    return {name: (1 - share) * verbal[name] + share * nonverbal[name] for name in verbal}


def _where(x: Tensor | None, has: Tensor) -> Tensor:
    """Return similarities where windows have the modality, NaN elsewhere."""
    nothing = torch.full(has.shape, torch.nan)
    return nothing if x is None else x.cpu().where(has, nothing)


def _weighed(picture: Tensor, sound: Tensor, weight: float) -> Tensor:
    """Return the weighted mean of what a window has; NaN where only the other has a weight."""
    if weight in (0, 1):
        return sound if weight else picture
    both = (1 - weight) * picture + weight * sound
    return both.where(~both.isnan(), picture.where(~picture.isnan(), sound))
