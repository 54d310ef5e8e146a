"""Find windows of an index by words, a sound, a picture or a video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from pathlib import Path

import numpy as np
import torch

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Modality
from clip4vla.models.common.batch_features import Features
from clip4vla.search.approximate import candidates, indexed_columns
from clip4vla.search.asked import read_image, read_media
from clip4vla.search.comparing import (
    ALIKE,
    PICTURE,
    ClipPart,
    Part,
    Scores,
    TextPart,
    by_share,
    mixed,
)
from clip4vla.search.encoder import SOUND, moved
from clip4vla.search.index import Index, Window
from clip4vla.search.second import second_scores, usual_count
from clip4vla.search.store import among, corruption_named

NOTHING = torch.zeros(1)


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


def find(
    index: Index,
    query: Query,
    top: int = 10,
    apart: bool = True,
    rescore: int | None = None,
    exact: bool = False,
) -> list[Hit]:
    """Return the `top` windows that fit a query best, best first.

    apart: of windows of a file that overlap, return the best alone. rescore: the first windows for
    a text that are looked at again where the checkpoint compares text and clip jointly; None: the
    usual number. exact: compare every window, though the index is so large that it keeps vector
    indexes (`clip4vla.search.approximate`). Raises UserError for a query that cannot be read, for
    options that have no effect with this checkpoint, and for a corrupt index.
    """
    if top < 1:
        raise UserError(f"top: {top} is not valid. Fix: give 1 or more")
    with corruption_named(index.folder):
        return _found(index, query, top, apart, rescore, exact)


def _found(
    index: Index, query: Query, top: int, apart: bool, rescore: int | None, exact: bool
) -> list[Hit]:
    again = _count_again(index, query, rescore)
    neighbours = 2 * (ceil(index.about.window / index.about.hop) - 1) if apart else 0
    best = ranked(index, [*_parts(index, query)], max(top * (1 + neighbours), again), exact)
    seconds: dict[int, float] = {}
    if again and query.text is not None:
        seconds = second_scores(index, query.text, [row for row, _ in best[:again]])
        best.sort(key=lambda item: -seconds.get(item[0], -inf))  # stable: the others follow
    windows = {window.row: window for window in index.windows([row for row, _ in best])}
    hits: list[Hit] = []
    for row, (score, picture, sound) in best:
        window = windows.get(row)
        if window is None or (apart and any(_overlap(window, hit.window) for hit in hits)):
            continue
        hit = Hit(
            window=window,
            score=seconds.get(row, score),
            picture=_known(picture),
            sound=_known(sound),
            rescored=row in seconds,
        )
        hits.append(hit)
        if len(hits) == top:
            break
    return hits


def _count_again(index: Index, query: Query, rescore: int | None) -> int:
    """Return how many windows are looked at again. UserError where that has no effect."""
    others = query.audio or query.image or query.video or query.like is not None
    alone = query.text and not others
    usual = usual_count(index) if alone and query.sound_weight is None else 0
    if rescore and not usual:
        raise UserError(
            "rescore: it has an effect for words alone, without sound_weight, with a checkpoint "
            "that compares text and clip jointly. Fix: leave it out"
        )
    return usual if rescore is None else rescore


Found = tuple[int, tuple[float, float, float]]  # the number of a window, and its `Scores`


def ranked(index: Index, parts: Sequence[Part], most: int, exact: bool = False) -> list[Found]:
    """Return the best windows by their vectors, best first."""
    probes = [probe for part in parts for probe in part.probes(index.vectors)]
    near = not exact and {column for column, _ in probes} <= indexed_columns(index.table)
    blocks = index.taken(candidates(index.table, probes, most)) if near else index.blocks()
    best = _Best(most)
    for block in blocks:
        means = zip(*(part.scores(block).parts() for part in parts), strict=True)
        best.add(block.rows, Scores(*(torch.stack(each).mean(dim=0) for each in means)))
    return best.ranked()


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

    def ranked(self) -> list[Found]:
        """Return numbers and scores, best first; of equal ones the first window."""
        order = np.lexsort((self.rows, -self.scores[0]))
        return [
            (int(self.rows[i]), tuple(map(float, self.scores[:, i])))  # type: ignore[misc]
            for i in order
        ]


def _parts(index: Index, query: Query) -> Iterator[Part]:
    """Yield the parts of a query, encoded."""
    ranker, share, embedder = index.encoder.ranker, _share(index, query), index.embedder
    settings = embedder.settings
    if query.text and query.text.strip():
        features = moved(embedder.text_features([query.text]), index.compared_on)
        yield TextPart(ranker, features, query.sound_weight, share)
    if query.like is not None:
        weight = ALIKE if query.sound_weight is None else query.sound_weight
        yield ClipPart(ranker, _vectors_of(index, query.like, share), weight, share)
    asked: dict[str, tuple[Path | None, list[Modality], float]] = {
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
                f"query by {kind}: the checkpoint of this index reads {settings.modalities[0]} "
                "alone. Fix: search by words, or index the clips with another checkpoint"
            )
        read = read_image if kind == "image" else partial(read_media, modalities=wanted)
        vectors = moved(index.encoder.alone(read(path, settings), wanted, share), index.compared_on)
        if len(vectors) == 1 and usual == ALIKE:  # of a video
            usual = float(SOUND in vectors)
        weight = usual if query.sound_weight is None else query.sound_weight
        yield ClipPart(ranker, vectors, weight, share)


def _vectors_of(index: Index, row: int, share: float) -> Features:
    """Return the vectors of a window, of what it has. UserError for one that is gone."""
    for block in index.blocks(where=among("row", [row])):
        found = mixed(by_share(block.features), share)
        return {name: found[name] for name in (PICTURE, SOUND) if found.get(name, NOTHING).any()}
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
