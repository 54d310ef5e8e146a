"""A second look at the first windows of a ranking, by what compares a text and a clip jointly."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clip4vla.common.device import in_float32
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.config.settings import Settings
from clip4vla.media.isolated import isolated_each, patience
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.scorer import Scorer, SecondScorer
from clip4vla.search.encoder import features_in, moved
from clip4vla.search.index import Index
from clip4vla.search.store import SECOND, among
from clip4vla.search.windows import Cut, Piece, pieces_of

KEPT, MADE = 100, 20  # windows of a second look: kept in the index, or decoded and encoded again
AT_ONCE = 8  # windows that are compared together: bounds the memory


def usual_count(index: Index) -> int:
    """Return how many windows get a second look if nothing else is asked for."""
    if index.encoder.second is None:
        return 0
    return KEPT if SECOND in index.table.schema.names else MADE


@torch.no_grad()
def second_scores(index: Index, text: str, rows: Sequence[int]) -> dict[int, float]:
    """Return the second scores of a text with windows, by their numbers.

    Windows whose file is gone are left out.
    """
    scorer, embedder = index.encoder.second, index.embedder
    assert scorer is not None, "asked for by `usual_count`"
    asked = moved(embedder.text_features([text], scorer), embedder.device)
    kept = SECOND in index.table.schema.names
    parts = _kept(index, rows) if kept else _made(index, rows)
    found: dict[int, float] = {}
    for some, clips in parts:
        found |= zip(some, _compared(scorer, asked, clips).tolist(), strict=True)
    return found


def _compared(scorer: Scorer, text: Features, clips: Features) -> Tensor:
    """Return the second scores [n] of one text with n clips."""
    device = next(iter(clips.values())).device
    with in_float32(device):
        if not isinstance(scorer, SecondScorer):
            (scores,) = scorer.scores(text, clips, 1.0).values()
            return scores[0].float().cpu()
        count = len(next(iter(clips.values())))
        pairs = torch.stack([torch.zeros(count), torch.arange(count)], dim=1).long()
        return scorer.rescored(text, clips, pairs.to(device)).float().cpu()


Part = tuple[list[int], Features]


def _kept(index: Index, rows: Sequence[int]) -> Iterator[Part]:
    """Yield features that the index holds."""
    query = index.table.search().where(among("row", rows)).select(["row", SECOND])
    found = query.limit(len(rows)).to_list()
    for start in range(0, len(found), AT_ONCE):
        some = found[start : start + AT_ONCE]
        features = features_in([item[SECOND] for item in some], index.embedder.device)
        yield [item["row"] for item in some], features


def _made(index: Index, rows: Sequence[int]) -> Iterator[Part]:
    """Yield features of windows that are decoded again, each file once."""
    query = index.table.search().where(among("row", rows)).select(["row", "path", "number"])
    wanted: dict[str, dict[int, int]] = defaultdict(dict)  # path -> number -> row
    for item in query.limit(len(rows)).to_list():
        if (index.media / item["path"]).is_file():
            wanted[item["path"]][item["number"]] = item["row"]
    decode = partial(
        _decode,
        folder=index.media,
        settings=index.embedder.settings,
        cut=Cut(index.about.window, index.about.hop),
    )
    tasks = [(path, sorted(numbers)) for path, numbers in wanted.items()]
    results = isolated_each(
        decode, tasks, lambda task: patience(index.media / task[0]), processes=1
    )
    total = sum(len(numbers) for _, numbers in tasks)
    decoded = (
        (wanted[tasks[task][0]][item.number], item)
        for task, item in results
        if isinstance(item, Piece)
    )
    group: list[tuple[int, Piece]] = []
    for found in track(decoded, "look again", total):
        group.append(found)
        if len(group) == AT_ONCE:
            yield _encoded(index, group)
            group = []
    if group:
        yield _encoded(index, group)


def _encoded(index: Index, group: list[tuple[int, Piece]]) -> Part:
    rows, pieces = zip(*group, strict=True)
    return list(rows), index.encoder.second_features(pieces)


def _decode(
    task: tuple[str, list[int]], folder: Path, settings: Settings, cut: Cut
) -> Iterator[Piece]:
    path, numbers = task
    modalities: list[Modality] = settings.modalities
    for piece in pieces_of(folder / path, settings, cut, modalities, numbers[0]):
        if isinstance(piece, Piece) and piece.number in numbers:
            yield piece
        if not isinstance(piece, Piece) or piece.number >= numbers[-1]:
            return
