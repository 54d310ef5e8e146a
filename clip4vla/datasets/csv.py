"""Own clips: one table that a user wrote, as csv, tsv, jsonl or parquet (docs/own_clips.md).

Columns: id and file; caption, label (one text), captions, labels (lists; in csv and tsv as JSON);
start and end (seconds of the file); split; source (what was recorded at once: clips of a source are
in one split). A clip may have several rows, each with another caption or label. A file is its own
source where the table names none. Without captions, the labels of a clip are its caption.
"""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from clip4vla.common.files import sha256_of
from clip4vla.config.data import Dataset, Shares
from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.shares import deal, empty_splits, other_seed
from clip4vla.datasets.table_files import CORRECT, table_rows

FILES_ARE_CLIPS = False  # a row with start and end is cut from its file
IS_OWN = True
PROTOCOLS = {"all": Protocol("train", "val", "test")}
_COLUMNS = (
    *("id", "file", "caption", "captions", "label", "labels"),
    *("split", "start", "end", "source"),
)


@dataclass
class _Entry:
    """A clip with all captions and labels of its rows; split: "" for none."""

    where: Where
    clip: Clip
    split: str
    captions: list[str]
    labels: list[str]


def read(name: str, dataset: Dataset) -> Collector:
    """Read the table; deal its clips to splits if it has none."""
    into = Collector(name, dataset.annotations, correct=CORRECT)
    needed = "file" if dataset.gives_files else "source"
    entries: dict[str, _Entry] = {}
    for where, row in table_rows(name, dataset.annotations, _COLUMNS, ("id", needed)):
        entry = _entry(into, where, row, dataset)
        if entry.clip.clip_id in entries:
            _add(into, entries[entry.clip.clip_id], entry)
        else:
            entries[entry.clip.clip_id] = entry
    clips = list(entries.values())
    for clip in clips:
        into.clip(clip.clip, clip.where)
    _check_sources(into, clips)
    _give_captions(into, clips)
    _give_splits(into, clips, dataset)
    for clip in clips:
        item = SplitItem(clip.split, clip.clip.clip_id, tuple(clip.captions), tuple(clip.labels))
        into.item(item, clip.where)
    _note_labels(into, clips)
    return into


def _entry(into: Collector, where: Where, row: dict[str, Any], dataset: Dataset) -> _Entry:
    clip_id, file, source, split = (
        _text(into, where, column, row.get(column)) for column in ("id", "file", "source", "split")
    )
    if not clip_id:
        into.fail(where, "no id")
    if dataset.source == "youtube":
        youtube_id(into, where, source)
    if not (file if dataset.gives_files else source):
        lacking = "file" if dataset.gives_files else "source"
        into.fail(where, f"clip {shown(clip_id)} has no {lacking}")
    file = str(PurePosixPath(file or f"{source}.mp4"))  # ./a.mp4 and a.mp4 are one file
    clip = Clip(
        clip_id=clip_id,
        source_id=source or f"file-{sha256_of(ascii(file))[:16]}",
        file=file,
        start=_seconds(into, where, "start", row.get("start")),
        end=_seconds(into, where, "end", row.get("end")),
    )
    captions, labels = (
        [text for text in [_text(into, where, column, row.get(column))] if text]
        + _texts(into, where, f"{column}s", row.get(f"{column}s"))
        for column in ("caption", "label")
    )
    return _Entry(where, clip, split, captions, labels)


def _text(into: Collector, where: Where, column: str, value: object) -> str:
    """Return a text without blanks at its ends; "" for a missing one. UserError for other types."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        into.fail(where, f"invalid {column} {shown(value)}", "use a text")
    return value.strip()


def _texts(into: Collector, where: Where, column: str, value: object) -> list[str]:
    """Return the texts of a list, in a csv of a JSON list; [] for a missing one."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list):
        one = column.removesuffix("s")
        into.fail(
            where,
            f"invalid {column} {shown(value)}",
            f'use a list, ["one", "another"], or a row for each in a column {one}',
        )
    return [_text(into, where, column, item) for item in value]


def _seconds(into: Collector, where: Where, column: str, value: object) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return seconds(into, where, column, value)


def _add(into: Collector, entry: _Entry, again: _Entry) -> None:
    """Add the captions and labels of a further row of a clip; UserError where it contradicts."""
    for column, own, other in (
        ("file", entry.clip.file, again.clip.file),
        ("source", entry.clip.source_id, again.clip.source_id),
        ("start", entry.clip.start, again.clip.start),
        ("end", entry.clip.end, again.clip.end),
        ("split", entry.split, again.split),
    ):
        if own != other:
            into.fail(
                again.where,
                f"clip {shown(entry.clip.clip_id)} has {column} {shown(other)}, but {shown(own)} "
                f"in {entry.where}",
                "give another clip another id; rows of one clip differ in caption or label alone",
            )
    captions = [text for text in again.captions if text not in entry.captions]
    labels = [text for text in again.labels if text not in entry.labels]
    if not captions and not labels:
        into.fail(
            again.where,
            f"clip id {entry.clip.clip_id} occurs twice (first in {entry.where}), and this row has "
            "no other caption or label",
            "remove the row, or give it another id",
        )
    entry.captions += captions
    entry.labels += labels


def _check_sources(into: Collector, entries: list[_Entry]) -> None:
    """Refuse a file of two sources, and a source in two splits: a test must not see train."""
    files: dict[str, _Entry] = {}
    sources: dict[str, _Entry] = {}
    for entry in entries:
        clip = entry.clip
        first = files.setdefault(clip.file, entry)
        if first.clip.source_id != clip.source_id:
            into.fail(
                entry.where,
                f"file {shown(clip.file)} has source {clip.source_id}, but {first.clip.source_id} "
                f"in {first.where}",
                "give a file one source",
            )
        first = sources.setdefault(clip.source_id, entry)
        if first.split != entry.split and first.split and entry.split:
            into.fail(
                entry.where,
                f"clip {clip.clip_id} is in split {entry.split}, but clip {first.clip.clip_id} of "
                f"the same {'file' if first.clip.file == clip.file else 'source'} in {first.split} "
                f"({first.where})",
                "put all clips of a file or source into one split",
            )


def _give_captions(into: Collector, entries: list[_Entry]) -> None:
    """Give clips their labels as captions where the table has no captions at all."""
    has_captions = any(entry.captions for entry in entries)
    for entry in entries:
        if not entry.captions and (has_captions or not entry.labels):
            other = "others do" if has_captions else "no label either"
            into.fail(
                entry.where,
                f"clip {entry.clip.clip_id} has no caption ({other})",
                "write its caption, or remove the clip",
            )
        entry.captions = entry.captions or [", ".join(entry.labels).replace("_", " ")]


def _give_splits(into: Collector, entries: list[_Entry], dataset: Dataset) -> None:
    """Deal the clips to splits by shares if the table gives none."""
    given = [entry for entry in entries if entry.split]
    if given:
        if len(given) < len(entries):
            lacking = next(entry for entry in entries if not entry.split)
            into.fail(
                lacking.where,
                f"clip {lacking.clip.clip_id} has no split, but {len(given)} of "
                f"{len(entries)} have",
                "give each clip a split, or none",
            )
        if dataset.splits != Shares():
            into.fail(
                dataset.annotations,
                f"has splits, so datasets.{into.name}.splits has no effect",
                "remove one of them",
            )
        return
    dealt = deal((entry.clip.source_id for entry in entries), dataset.splits)
    if empty := empty_splits(dealt, dataset.splits):
        seed, key = other_seed(dealt, dataset.splits), f"datasets.{into.name}.splits.seed"
        set_it = "" if seed is None else f"set {key}: {seed}, or "
        into.fail(
            dataset.annotations,
            f"{len(dealt)} sources dealt by seed {dataset.splits.seed} leave split "
            f"{' and '.join(empty)} empty",
            f"{set_it}write a column split",
        )
    for entry in entries:
        entry.split = dealt[entry.clip.source_id]
    counts = Counter(entry.split for entry in entries)
    shown_counts = ", ".join(f"{name} {counts[name]:,}" for name in PROTOCOLS["all"].splits())
    into.note(f"clips dealt to splits by seed {dataset.splits.seed}: {shown_counts}")


def _note_labels(into: Collector, entries: list[_Entry]) -> None:
    """Note clips without a label among others with one, and labels that may be the same."""
    without = [entry.clip.clip_id for entry in entries if not entry.labels]
    if 0 < len(without) < len(entries):
        into.note(
            f"{len(without):,} of {len(entries):,} clips have no label (first: {without[0]}), "
            "which classification and tagging need"
        )
    folded: dict[str, str] = {}
    for label in sorted({label for entry in entries for label in entry.labels}):
        first = folded.setdefault(" ".join(label.casefold().split()), label)
        if first != label:
            into.note(f"labels {shown(first)} and {shown(label)} are two classes")
