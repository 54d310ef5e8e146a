"""MSR-VTT (Xu et al. 2016) with the 1k-A retrieval split (Yu et al. 2018); facts 7.5, 8.4, 11.

Files: MSRVTT_data.json (`videos`, `sentences`), MSRVTT_train.9k.csv (video_id) and
MSRVTT_JSFUSION_test.csv (video_id, sentence). Media are files `<video_id>.mp4`, one per clip.

Splits: train_9k, the 9,000 training videos of the paper; train_ours and val_ours, the same without
and only the official validation videos, so that a checkpoint can be chosen without looking at the
test set; test_1k, one given sentence each; caption_train/val/test, the official 6,513/497/2,990.
"""

from urllib.parse import parse_qs, urlsplit

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Annotations, Clip, Collector, SplitItem, shown
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import json_file, official_file, rows

FILES_ARE_CLIPS = True
_CAPTION_SPLITS = {
    "train": "caption_train",
    "validate": "caption_val",
    "test": "caption_test",
}


def read(name: str, dataset: Dataset) -> Annotations:
    """Read the three files; every caption of a video is in its splits except test_1k."""
    data = official_file(name, dataset, "MSRVTT_data.json", "MSR-VTT's videos and sentences")
    train = official_file(name, dataset, "MSRVTT_train.9k.csv", "the list of 9,000 training videos")
    test = official_file(name, dataset, "MSRVTT_JSFUSION_test.csv", "the 1,000 test sentences")
    into = Collector(name)
    official = _videos(name, data, into)
    captions = _sentences(name, data, into, official)
    for video, split in official.items():
        where = f"{data}, video {shown(video)}"
        into.item(SplitItem(_CAPTION_SPLITS[split], video, captions.get(video, ())), where)
    for where, row in rows(name, train, ("video_id",)):
        video = row["video_id"]
        if video not in official:
            into.fail(where, f"{shown(video)} is not in {data}")
        ours = "val_ours" if official[video] == "validate" else "train_ours"
        for split in ("train_9k", ours):
            into.item(SplitItem(split, video, captions[video]), where)
    for where, row in rows(name, test, ("video_id", "sentence")):
        into.item(SplitItem("test_1k", row["video_id"], (row["sentence"].strip(),)), where)
    return into.annotations()


def _videos(name: str, path, into: Collector) -> dict[str, str]:
    official = {}
    for number, video in enumerate(_list_of(name, path, into, "videos")):
        where = f"{path}, videos[{number}]"
        for key in ("video_id", "url", "split"):
            if not isinstance(video.get(key), str):
                into.fail(where, f"{key} is {shown(video.get(key))}: a text is wanted")
        if video["split"] not in _CAPTION_SPLITS:
            into.fail(where, f"split is {shown(video['split'])}: train, validate or test is wanted")
        start = seconds(into, where, "start time", video.get("start time"))
        end = seconds(into, where, "end time", video.get("end time"))
        source = youtube_id(into, where, _id_in(video["url"]))
        file = f"{video['video_id']}.mp4"
        into.clip(Clip(video["video_id"], source, file, start, end, "unknown"), where)
        official[video["video_id"]] = video["split"]
    return official


def _sentences(name: str, path, into: Collector, official) -> dict[str, tuple[str, ...]]:
    captions: dict[str, list[str]] = {}
    for number, sentence in enumerate(_list_of(name, path, into, "sentences")):
        where = f"{path}, sentences[{number}]"
        video, caption = sentence.get("video_id"), sentence.get("caption")
        if not isinstance(video, str) or video not in official:
            into.fail(where, f"video_id {shown(video)} is not among the videos")
        if not isinstance(caption, str):
            into.fail(where, f"caption is {shown(caption)}: a text is wanted")
        captions.setdefault(video, []).append(caption.strip())
    return {video: tuple(texts) for video, texts in captions.items()}


def _list_of(name: str, path, into: Collector, key: str) -> list[dict]:
    value = json_file(name, path, dict).get(key)
    if not isinstance(value, list):
        into.fail(str(path), f"the list `{key}` is missing")
    for number, member in enumerate(value):
        if not isinstance(member, dict):
            into.fail(f"{path}, {key}[{number}]", "an object {...} is wanted")
    return value


def _id_in(url: str) -> str:
    try:
        return parse_qs(urlsplit(url).query).get("v", [url])[0]
    except ValueError:
        return url
