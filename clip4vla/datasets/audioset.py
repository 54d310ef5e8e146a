"""AudioSet (Gemmeke et al. 2017) as captioned clips for pre-training; facts 6.1, 11.

Files: class_labels_indices.csv (index, mid, display_name) and one or both of
unbalanced_train_segments.csv and balanced_train_segments.csv as published: three comment lines,
then YTID, start_seconds, end_seconds, "mid,mid". Media are files `<YTID>.mp4` of 10 s, one per
clip.

A clip's caption is "The sound of " and its labels' names joined by commas without spaces, as the
released code has it. Clip ids are `v_<YTID>`. Split: train.
"""

from pathlib import Path

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import headerless_rows, official_file, rows

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {"pretraining": Protocol("train")}
PROMPT = "The sound of "
_SEGMENTS = ("unbalanced_train_segments.csv", "balanced_train_segments.csv")


def read(name: str, dataset: Dataset) -> Collector:
    """Read the segment lists that exist."""
    classes = official_file(
        name, dataset, "class_labels_indices.csv", "AudioSet's table of class labels"
    )
    present = [file for file in _SEGMENTS if (dataset.annotations / file).exists()]
    into = Collector(name, dataset.annotations)
    names = _names(name, classes, into)
    for file in present or _SEGMENTS[:1]:
        path = official_file(name, dataset, file, f"AudioSet's segments (or its {_SEGMENTS[1]})")
        for where, (video, start, end, mids) in headerless_rows(name, path, 4):
            source = youtube_id(into, where, video.strip())
            clip_id = f"v_{source}"
            begin = seconds(into, where, "start_seconds", start)
            stop = seconds(into, where, "end_seconds", end)
            into.clip(Clip(clip_id, source, f"{source}.mp4", begin, stop, "nonverbal"), where)
            labels = tuple(_name_of(into, where, names, mid) for mid in mids.split(","))
            caption = PROMPT + ",".join(labels)
            into.item(SplitItem("train", clip_id, (caption,), labels), where)
    return into


def _names(name: str, path: Path, into: Collector) -> dict[str, str]:
    names = {}
    for where, row in rows(name, path, ("mid", "display_name"), ("index",)):
        if not row["display_name"].strip():
            into.fail(where, "blank display_name")
        if row["mid"].strip() in names:
            into.fail(where, f"mid {shown(row['mid'])} occurs twice")
        names[row["mid"].strip()] = row["display_name"].strip()
    return names


def _name_of(into: Collector, where: Where, names: dict[str, str], mid: str) -> str:
    if mid.strip() not in names:
        into.fail(where, f"label {shown(mid)} is not in class_labels_indices.csv")
    return names[mid.strip()]
