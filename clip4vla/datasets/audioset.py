"""AudioSet (Gemmeke et al. 2017): sounds of 10 s with several labels each; facts 6.1, 11.

Files: class_labels_indices.csv (index, mid, display_name) and those of the lists that are there:
unbalanced_train_segments, balanced_train_segments and eval_segments. A list is a csv as published
(up to three comment lines, then YTID, start_seconds, end_seconds, "mid,mid") or as copies have it
(no blanks after commas, no quotation marks around one label, whole seconds, fewer comments); or a
json of the same name in the form of CAV-MAE, {"data": [{"video_id", "labels", ...}]}, without
times, which is not read beside a csv. Media are files `<YTID>.mp4` of 10 s, one per clip.

A clip's caption is "The sound of " and its labels' names joined by commas without spaces, as the
released code has it. Clip ids are `v_<YTID>`. Splits: train (both training lists), balanced, eval,
retrieval_1725 (`lists/audioset_retrieval_1725.txt`: clips of eval, for retrieval between sound and
picture).
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import (
    first_present,
    headerless_rows,
    json_entries,
    official_file,
    rows,
    shipped_list,
)

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {
    "pretraining": Protocol("train"),
    "as_2m": Protocol("train", None, "eval"),
    "as_20k": Protocol("balanced", None, "eval"),
    "retrieval": Protocol("train", None, "retrieval_1725"),
}
BENCHMARKS = {
    "eval": Benchmark("official", clips=20371),
    "retrieval_1725": Benchmark("CAV-MAE", clips=1725),
}
PROMPT = "The sound of "
RETRIEVAL = "audioset_retrieval_1725.txt"
_LISTS = {  # list -> its splits; clips of the balanced list may be in another's json again
    "balanced_train_segments": ("train", "balanced"),
    "unbalanced_train_segments": ("train",),
    "eval_segments": ("eval",),
}
_COUNT = re.compile(r"\b(num_ytids|num_segs|num_positive_labels)=([0-9]{1,12})\b")


class _Segment(NamedTuple):
    where: Where
    video: str
    start: float | None
    end: float | None
    mids: list[str]


def read(name: str, dataset: Dataset) -> Collector:
    """Read the lists that exist."""
    classes = official_file(
        name, dataset, "class_labels_indices.csv", "AudioSet's table of class labels"
    )
    into = Collector(name, dataset.annotations)
    names, retrieval = _names(name, classes, into), set(shipped_list(RETRIEVAL))
    balanced: dict[str, list[str]] = {}  # the mids of its clips
    for path, splits in _present(name, dataset, into):
        is_json, again, found = path.suffix == ".json", 0, 0
        segments = _json(name, path, dataset, into) if is_json else _csv(name, path, into)
        for where, video, start, end, mids in segments:
            if is_json and splits == ("train",) and video in balanced:
                if sorted(mids) != sorted(balanced[video]):
                    into.fail(where, f"clip {video} has other labels in the balanced list")
                again += 1
                continue
            clip_id = f"v_{video}"
            into.clip(Clip(clip_id, video, f"{video}.mp4", start, end, "nonverbal"), where)
            labels = [_name_of(into, where, names, mid) for mid in mids]
            caption, labels = PROMPT + ",".join(labels), list(dict.fromkeys(labels))
            for split in splits:
                into.item(SplitItem(split, clip_id, (caption,), tuple(labels)), where)
            if "balanced" in splits:
                balanced[video] = mids
            if "eval" in splits and video in retrieval:
                found += 1
                into.item(SplitItem("retrieval_1725", clip_id, (caption,), tuple(labels)), where)
        if again:
            into.note(f"{path}: {again:,} clips of the balanced list are in it too, taken once")
        if "eval" in splits and found < len(retrieval):
            into.note(
                f"split retrieval_1725 has {found:,} of its {len(retrieval):,} clips: {path.name} "
                "does not have the others"
            )
    return into


def _present(
    name: str, dataset: Dataset, into: Collector
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the lists that exist, and their splits. UserError without a list."""
    choices = {
        stem: tuple((stem + suffix, f"AudioSet's {stem}") for suffix in (".csv", ".json"))
        for stem in _LISTS
    }
    present = [
        stem
        for stem, files in choices.items()
        if any((dataset.annotations / file).exists() for file, _ in files)
    ]
    for stem in present or ["unbalanced_train_segments"]:
        path, _ = first_present(name, dataset, choices[stem])
        if path.suffix == ".csv" and path.with_suffix(".json").exists():
            into.note(f"{path.with_suffix('.json')}: not read, since {path.name} is there too")
        yield path, _LISTS[stem]


def _csv(name: str, path: Path, into: Collector) -> Iterator[_Segment]:
    """Yield the rows of a list, and compare their number with that in its comments."""
    comments: list[tuple[Where, list[str]]] = []
    segments = labels = 0
    for where, (video, start, end, mids) in headerless_rows(name, path, 4, comments):
        segment = _Segment(
            where,
            youtube_id(into, where, video.strip()),
            seconds(into, where, "start_seconds", start),
            seconds(into, where, "end_seconds", end),
            mids.split(","),
        )
        segments, labels = segments + 1, labels + len(segment.mids)
        yield segment
    _check_comments(into, comments, segments, labels)


def _check_comments(
    into: Collector, comments: list[tuple[Where, list[str]]], segments: int, labels: int
) -> None:
    """Refuse a row that looks like a comment, and a comment that counts other rows or labels."""
    for where, cells in comments:
        if len(cells) > 1 and _is_number(cells[1]):
            into.fail(where, f"invalid YouTube id {shown(cells[0])}: this is a row, not a comment")
    for where, cells in comments:
        for key, count in _COUNT.findall(",".join(cells)):
            found = labels if key == "num_positive_labels" else segments
            if int(count) != found:
                into.fail(
                    where,
                    f"{key}={count}, but the list has {found}: it was truncated or changed",
                    "take the whole list as published, or remove the comment of a list of your own",
                )


def _json(name: str, path: Path, dataset: Dataset, into: Collector) -> Iterator[_Segment]:
    """Yield the entries of a list in the form of CAV-MAE: whole files, without times."""
    if not dataset.gives_files:
        into.fail(
            path, "has no times to cut clips of uploads by", "take the csv, or set source: local"
        )
    for where, entry in json_entries(name, path, "data"):
        labels = entry.get("labels") if isinstance(entry, dict) else None
        if not isinstance(labels, str):
            into.fail(where, f'invalid entry {shown(entry)}: must have "video_id" and "labels"')
        video = youtube_id(into, where, entry.get("video_id"))
        yield _Segment(where, video, None, None, labels.split(","))


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return True
    return False


def _names(name: str, path: Path, into: Collector) -> dict[str, str]:
    names: dict[str, str] = {}
    for where, row in rows(name, path, ("mid", "display_name"), ("index",)):
        mid, text = row["mid"].strip(), row["display_name"].strip()
        if not text:
            into.fail(where, "blank display_name")
        if mid in names:
            into.fail(where, f"mid {shown(mid)} occurs twice")
        names[mid] = text
    if len(set(names.values())) < len(names):
        into.fail(path, "two labels have the same display_name", "take the file as published")
    return names


def _name_of(into: Collector, where: Where, names: dict[str, str], mid: str) -> str:
    if mid.strip() not in names:
        into.fail(where, f"label {shown(mid)} is not in class_labels_indices.csv")
    return names[mid.strip()]
