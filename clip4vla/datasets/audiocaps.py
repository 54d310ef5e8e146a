"""AudioCaps (Kim et al. 2019): captioned clips of 10 s out of AudioSet; facts 7.5, 11.

Files: train.csv, val.csv, test.csv as published: audiocap_id, youtube_id, start_time, caption, one
row per caption (officially one for a training clip, five for the others). Version 2.0 of the lists
has the same columns. Media are files `<youtube_id>.mp4` of 10 s, one per clip.

A video has one clip, as in AudioSet; clip ids are `v_<youtube_id>`, as there. Splits: train, val,
test.
"""

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import official_file, rows

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {"retrieval": Protocol("train", "val", "test")}
BENCHMARKS = {"test": Benchmark("official", captions=5, clips=975)}
CLIP_SECONDS = 10.0
_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


def read(name: str, dataset: Dataset) -> Collector:
    """Read the three lists; the captions of a clip are in the order of the file."""
    into = Collector(name, dataset.annotations)
    by_number: dict[str, Where] = {}  # audiocap_id -> its row
    by_video: dict[str, tuple[str, Where]] = {}  # youtube_id -> split and first row
    for split in ("train", "val", "test"):
        path = official_file(name, dataset, f"{split}.csv", f"AudioCaps' {split} list")
        captions: dict[str, list[str]] = {}
        starts: dict[str, float] = {}
        for where, row in rows(name, path, _COLUMNS):
            number = row["audiocap_id"].strip()
            if number in by_number:
                into.fail(
                    where,
                    f"audiocap_id {shown(number)} occurs twice (first in {by_number[number]})",
                )
            by_number[number] = where
            video = youtube_id(into, where, row["youtube_id"].strip())
            start = seconds(into, where, "start_time", row["start_time"])
            first, place = by_video.setdefault(video, (split, where))
            if first != split:
                into.fail(where, f"video {video} is in {split} and in {first} ({place})")
            if starts.setdefault(video, start) != start:
                into.fail(where, f"video {video} starts at {start} here, but not in {place}")
            captions.setdefault(video, []).append(row["caption"].strip())
        for video, texts in captions.items():
            where, start = by_video[video][1], starts[video]
            end = start + CLIP_SECONDS
            clip_id = f"v_{video}"
            into.clip(Clip(clip_id, video, f"{video}.mp4", start, end, "nonverbal"), where)
            into.item(SplitItem(split, clip_id, tuple(texts)), where)
    return into
