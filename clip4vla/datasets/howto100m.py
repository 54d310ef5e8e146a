"""HowTo100M (Miech et al. 2019) as narrated clips for pre-training; facts 6.1, 11.

Files: HowTo100M_v1.csv (video_id, category_1, category_2, rank, task_id) as published, or
HOWTO100M_videos.csv, a list of your own with the column video_id (a subset is fine); and
raw_caption.json, the captions as they were spoken {video_id: {"start": [...], "end": [...],
"text": [...]}}, or caption.json (the same without stop words). The captions are gigabytes and are
read as a stream. Media are whole videos `<video_id>.mp4`; clips are cut from them.

From each video `clips_per_video` captions are drawn by `clip_seed` and the video's id only, so
that a change of the list changes no other video's clips. Each grows with its neighbours until it
has MIN_WORDS words and MIN_SECONDS seconds, on the side that gives the shorter clip (left on a
tie), as in the released code. That code draws again whenever a video is read; here clips are fixed
when the dataset is planned, so that they can be cut once and counted. Two draws that grow into the
same clip count once. Clip ids are `v_<video_id>_<start>_<end>`, seconds. Split: train.
"""

import hashlib
import math
import random
from operator import lt
from typing import Any, NamedTuple

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import first_present, json_members, rows

FILES_ARE_CLIPS = False
NAMES_ALL_SPLITS = True
PROTOCOLS = {"pretraining": Protocol("train")}
FORMED = 0  # in place of the line of a video whose clips were formed
MIN_WORDS = 5
MIN_SECONDS = 10.0
_VIDEOS = (
    ("HOWTO100M_videos.csv", "the list of videos (video_id)"),
    ("HowTo100M_v1.csv", "the official list of videos"),
)
_CAPTIONS = (
    ("raw_caption.json", "HowTo100M's raw captions"),
    ("caption.json", "HowTo100M's captions"),
)
_OPTIONAL = ("feature_file", "category_1", "category_2", "rank", "task_id")


class Track(NamedTuple):
    """The captions of a video by start, in columns.

    There are 136 million captions, and all but a few only pass through here.
    """

    starts: list[float]
    ends: list[float]
    texts: list[str]


class TimedCaption(NamedTuple):
    """One line of a video's speech track; times in seconds."""

    start: float
    end: float
    text: str


def read(name: str, dataset: Dataset) -> Collector:
    """Read the list and form clips for each listed video that has captions.

    A listed video without usable captions gives no clip; how many there are is noted.
    """
    videos, _ = first_present(name, dataset, _VIDEOS)
    captions, _ = first_present(name, dataset, _CAPTIONS)
    into = Collector(name, dataset.annotations)
    wanted: dict[str, int] = {}  # -> line of the list, or FORMED
    for where, row in rows(name, videos, ("video_id",), _OPTIONAL):
        video = youtube_id(into, where, row["video_id"].strip())
        if video in wanted:
            into.fail(where, f"video {video} occurs twice (first in line {wanted[video]})")
        wanted[video] = where.number
    silent = 0
    for where, video, track in json_members(name, captions):
        if video not in wanted:
            continue
        if wanted[video] == FORMED:
            into.fail(where, f"video {shown(video)} occurs twice")
        wanted[video] = FORMED
        spoken = _track(into, where, track)
        silent += not spoken.texts
        for clip in _drawn(video, spoken, dataset.clips_per_video, dataset.clip_seed):
            start, end = math.floor(clip.start), math.ceil(clip.end)
            clip_id = f"v_{video}_{start}_{end}"
            into.clip(
                Clip(clip_id, video, f"{video}.mp4", float(start), float(end), "verbal"), where
            )
            into.item(SplitItem("train", clip_id, (clip.text,)), where)
    absent = sum(line != FORMED for line in wanted.values())
    if absent or silent:
        into.note(
            f"{videos}: {absent + silent:,} of {len(wanted):,} videos give no clip: "
            f"{absent:,} not in {captions.name}, {silent:,} without a caption that has words "
            "and a duration"
        )
    return into


def form_clip(track: Track, index: int) -> TimedCaption:
    """Grow caption `index` with its neighbours to MIN_WORDS words and MIN_SECONDS seconds.

    Stops early when all of it is taken. Times and text of the result
    cover all captions in it.
    """
    starts, ends, texts = track
    first = last = index
    start, end, final = starts[index], ends[index], len(texts) - 1
    words = len(texts[index].split())
    while words < MIN_WORDS or end - start < MIN_SECONDS:
        left = max(end, ends[first - 1]) - starts[first - 1] if first > 0 else math.inf
        right = max(end, ends[last + 1]) - start if last < final else math.inf
        if left == right == math.inf:
            break
        if left <= right:
            first -= 1
            start, end = starts[first], max(end, ends[first])
            words += len(texts[first].split())
        else:
            last += 1
            end = max(end, ends[last])
            words += len(texts[last].split())
    spoken = " ".join(texts[first : last + 1])
    return TimedCaption(start, end, " ".join(spoken.split()))


def _drawn(video: str, track: Track, number: int, seed: int) -> list[TimedCaption]:
    """Return the clips formed from `number` captions of a track, drawn without replacement."""
    digest = hashlib.sha256(f"{seed}:{video}".encode()).hexdigest()
    chance = random.Random(int(digest[:16], 16))
    captions = len(track.texts)
    chosen = chance.sample(range(captions), min(number, captions))
    clips: dict[tuple[int, int], TimedCaption] = {}
    for index in sorted(chosen):
        clip = form_clip(track, index)
        clips.setdefault((math.floor(clip.start), math.ceil(clip.end)), clip)
    return list(clips.values())


def _track(into: Collector, where: Where, track: object) -> Track:
    """Return the captions of a video by start, without blank ones and ones without duration.

    Automatic tracks have both. Raises UserError for lists of different lengths or invalid times.
    """
    columns: list[Any] = [
        track.get(key) if isinstance(track, dict) else None for key in ("start", "end", "text")
    ]
    if not all(isinstance(column, list) for column in columns):
        into.fail(where, "`start`, `end` and `text` must be lists")
    starts, ends, texts = columns
    if not len(starts) == len(ends) == len(texts):
        into.fail(where, "`start`, `end` and `text` have different lengths")
    times = starts + ends
    if set(map(type, times)) - {float} or not math.isfinite(sum(times)):
        starts = [seconds(into, where, f"start of caption {n}", t) for n, t in enumerate(starts)]
        ends = [seconds(into, where, f"end of caption {n}", t) for n, t in enumerate(ends)]
    if set(map(type, texts)) - {str}:
        texts = [text if isinstance(text, str) else "" for text in texts]
    is_usable = all(texts) and not any(map(str.isspace, texts)) and all(map(lt, starts, ends))
    if is_usable and min(starts, default=0) >= 0 and all(map(lt, starts, starts[1:])):
        return Track(starts, ends, texts)
    kept = sorted(
        caption
        for caption in zip(starts, ends, texts, strict=True)
        if 0 <= caption[0] < caption[1] and caption[2] and not caption[2].isspace()
    )
    return Track(*map(list, zip(*kept, strict=True))) if kept else Track([], [], [])
