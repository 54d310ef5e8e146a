"""The demo clips: clips.tsv, and film.tsv with cuts from a longer film and clips that are gone.

clips.tsv: clip_id, file, split, category, spoken (0/1), audio, captions (JSON list), source,
licence. film.tsv (optional): clip_id, file, start, end, split, category, spoken, captions,
http_status, note. A row of film.tsv with start and end has the times to cut an id of clips.tsv
instead; every other row is a further clip, whose file no longer exists on the server
(`http_status` is the server's business).
"""

import json
from pathlib import PurePosixPath
from typing import NamedTuple

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Clip, Protocol, Sound, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds
from clip4vla.datasets.official import official_file, rows

FILES_ARE_CLIPS = False  # film.mp4 is a source; a row without start and end is a whole file
PROTOCOLS = {"all": Protocol("train", "val", "test")}
_CLIP_COLUMNS = ("clip_id", "file", "split", "category", "spoken", "captions")
_NOTES = ("audio", "source", "licence")
_FILM_COLUMNS = (*_CLIP_COLUMNS, "start", "end")


class _Cut(NamedTuple):
    """The part of a longer file that a clip of clips.tsv is cut from, in seconds."""

    file: str
    start: float
    end: float
    where: Where


def read(name: str, dataset: Dataset) -> Collector:
    """Read clips.tsv and, if it exists, film.tsv. Splits are those of the column `split`."""
    into = Collector(name, dataset.annotations)
    path = official_file(name, dataset, "clips.tsv", "the table of the demo clips")
    cuts, further = _film(name, dataset, into)
    for where, row in rows(name, path, _CLIP_COLUMNS, _NOTES, "\t"):
        _add(into, where, row, cuts.pop(row["clip_id"], None))
    for clip_id, cut in cuts.items():
        into.fail(cut.where, f"clip {shown(clip_id)} is not in {path}")
    for where, row in further:
        _add(into, where, row)
    return into


def _film(
    name: str, dataset: Dataset, into: Collector
) -> tuple[dict[str, _Cut], list[tuple[Where, dict[str, str]]]]:
    """Read film.tsv: the cuts by clip id, and the rows of further clips."""
    cuts: dict[str, _Cut] = {}
    further = []
    if (dataset.annotations / "film.tsv").exists():
        path = official_file(name, dataset, "film.tsv", "the table of the clips of the film")
        for where, row in rows(name, path, _FILM_COLUMNS, ("http_status", "note"), "\t"):
            if not row["start"] and not row["end"]:
                further.append((where, row))
                continue
            if row["clip_id"] in cuts:
                into.fail(where, f"clip id {shown(row['clip_id'])} occurs twice")
            start = seconds(into, where, "start", row["start"])
            end = seconds(into, where, "end", row["end"])
            cuts[row["clip_id"]] = _Cut(row["file"], start, end, where)
    return cuts, further


def _add(into: Collector, where: Where, row: dict[str, str], cut: _Cut | None = None) -> None:
    if row["spoken"] not in ("0", "1"):
        into.fail(where, f"invalid spoken {shown(row['spoken'])}", "use 0 or 1")
    sound: Sound = "verbal" if row["spoken"] == "1" else "nonverbal"
    clip = Clip(row["clip_id"], row["clip_id"], row["file"], sound=sound)
    if cut:
        where, source = cut.where, PurePosixPath(cut.file).stem
        clip = Clip(row["clip_id"], source, cut.file, cut.start, cut.end, sound)
    into.clip(clip, where)
    try:
        captions = json.loads(row["captions"])
    except (ValueError, RecursionError):
        captions = None
    if not isinstance(captions, list):
        into.fail(where, f"invalid captions {shown(row['captions'])}", "use a JSON list of texts")
    labels = (row["category"],) if row["category"] else ()
    into.item(SplitItem(row["split"], row["clip_id"], tuple(captions), labels), where)
