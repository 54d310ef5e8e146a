"""MSR-VTT (Xu et al. 2016) with the 1k-A retrieval split (Yu et al. 2018); facts 7.5, 8.4, 11.

Files: MSRVTT_data.json (`videos`, `sentences`), or in its place the official pair
train_val_videodatainfo.json and test_videodatainfo.json; MSRVTT_train.9k.csv (video_id) and
MSRVTT_JSFUSION_test.csv (video_id, sentence); MSRVTT_train.7k.csv is optional. Media are files
`<video_id>.mp4`, one per clip.

Splits: train_9k, the 9,000 training videos of the paper (the official validation videos among
them); train_ours and val_ours, the same without and only those, so that a checkpoint can be chosen
without the test set; train_7k, if its list exists; test_1k, one fixed sentence each;
caption_train/val/test, the official 6,513/497/2,990. The captioning splits overlap with the
retrieval splits; a model trained for one must not be scored on the other.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import json_file, official_file, rows

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {
    "retrieval_9k": Protocol("train_9k", None, "test_1k"),
    "retrieval_ours": Protocol("train_ours", "val_ours", "test_1k"),
    "retrieval_7k": Protocol("train_7k", None, "test_1k"),
    "captioning": Protocol("caption_train", "caption_val", "caption_test"),
}
BENCHMARKS = {
    "test_1k": Benchmark("1k-A", captions=1, clips=1000),
    "caption_test": Benchmark("official", clips=2990),
}
_CAPTION_SPLITS = {
    "train": "caption_train",
    "validate": "caption_val",
    "test": "caption_test",
}
_PAIR = ("train_val_videodatainfo.json", "test_videodatainfo.json")
_TRAIN_7K = "MSRVTT_train.7k.csv"


def read(name: str, dataset: Dataset) -> Collector:
    """Read the files. A video has all of its captions in every split except test_1k."""
    data = _data_files(name, dataset)
    train = official_file(name, dataset, "MSRVTT_train.9k.csv", "the list of 9,000 training videos")
    test = official_file(name, dataset, "MSRVTT_JSFUSION_test.csv", "the 1,000 test sentences")
    into = Collector(name, dataset.annotations)
    official: dict[str, tuple[str, Where]] = {}
    contents = [(path, json_file(name, path, dict)) for path in data]
    for path, content in contents:
        official |= _videos(path, content, into)
    captions: dict[str, list[str]] = {}
    for path, content in contents:
        _sentences(path, content, into, official, captions)
    for video, (split, where) in official.items():
        into.item(SplitItem(_CAPTION_SPLITS[split], video, tuple(captions.get(video, ()))), where)
    lists = {"train_9k": train}
    if (dataset.annotations / _TRAIN_7K).exists():
        content = "the list of 7,010 training videos"
        lists["train_7k"] = official_file(name, dataset, _TRAIN_7K, content)
    for split, path in lists.items():
        for where, row in rows(name, path, ("video_id",)):
            video = row["video_id"]
            if video not in official:
                into.fail(where, f"{shown(video)} is not in {data[0]}")
            ours = "val_ours" if official[video][0] == "validate" else "train_ours"
            for part in (split, ours) if split == "train_9k" else (split,):
                into.item(SplitItem(part, video, tuple(captions.get(video, ()))), where)
    for where, row in rows(name, test, ("video_id", "sentence"), ("key", "vid_key")):
        into.item(SplitItem("test_1k", row["video_id"], (row["sentence"].strip(),)), where)
    return into


def _data_files(name: str, dataset: Dataset) -> list[Path]:
    """Return the merged file that comes with the retrieval lists, or the two official ones."""
    merged = "MSRVTT_data.json"
    if (dataset.annotations / merged).exists() or not any(
        (dataset.annotations / file).exists() for file in _PAIR
    ):
        content = f"MSR-VTT's videos and sentences (or {' and '.join(_PAIR)})"
        return [official_file(name, dataset, merged, content)]
    return [official_file(name, dataset, file, "MSR-VTT's videos and sentences") for file in _PAIR]


def _videos(path: Path, content: dict, into: Collector) -> dict[str, tuple[str, Where]]:
    """Add the clip of every video; return the videos' official splits and places."""
    official = {}
    for where, video in _list_of(path, content, into, "videos"):
        for key in ("video_id", "url", "split"):
            if not isinstance(video.get(key), str):
                into.fail(where, f"invalid {key} {shown(video.get(key))}: must be a text")
        if video["split"] not in _CAPTION_SPLITS:
            into.fail(
                where, f"invalid split {shown(video['split'])}: must be train, validate or test"
            )
        start = seconds(into, where, "start time", video.get("start time"))
        end = seconds(into, where, "end time", video.get("end time"))
        source = youtube_id(into, where, _id_in(video["url"]))
        file = f"{video['video_id']}.mp4"
        into.clip(Clip(video["video_id"], source, file, start, end, "unknown"), where)
        official[video["video_id"]] = video["split"], where
    return official


def _sentences(
    path: Path, content: dict, into: Collector, official: dict, captions: dict[str, list[str]]
) -> None:
    """Add every sentence to the captions of its video."""
    for where, sentence in _list_of(path, content, into, "sentences"):
        video, caption = sentence.get("video_id"), sentence.get("caption")
        if not isinstance(video, str) or video not in official:
            into.fail(where, f"video_id {shown(video)} is not among the videos")
        if not isinstance(caption, str):
            into.fail(where, f"invalid caption {shown(caption)}: must be a text")
        captions.setdefault(video, []).append(caption.strip())


def _list_of(path: Path, content: dict, into: Collector, key: str) -> Iterator[tuple[Where, dict]]:
    """Yield the members of a list of objects, as (where, member)."""
    value = content.get(key)
    if not isinstance(value, list):
        into.fail(path, f"the list `{key}` is missing")
    for number, member in enumerate(value):
        where = Where(path, f"{key} entry", number)
        if not isinstance(member, dict):
            into.fail(where, "must be an object {...}")
        yield where, member


def _id_in(url: str) -> str:
    try:
        return parse_qs(urlsplit(url).query).get("v", [url])[0]
    except ValueError:
        return url
