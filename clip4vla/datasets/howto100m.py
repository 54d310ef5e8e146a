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
from collections.abc import Sequence
from typing import Any, NamedTuple

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import first_present, json_members, rows

FILES_ARE_CLIPS = False
NAMES_ALL_SPLITS = True
PROTOCOLS = {"pretraining": Protocol("train")}
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


# Plain tuples: there are 136 million captions, and all but a few only pass through here.
Track = Sequence[tuple[float, float, str]]  # (start, end, text) of every caption, by start


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
    wanted: dict[str, int] = {}  # -> line of the list
    for where, row in rows(name, videos, ("video_id",), _OPTIONAL):
        video = youtube_id(into, where, row["video_id"].strip())
        if video in wanted:
            into.fail(where, f"video {video} occurs twice (first in line {wanted[video]})")
        wanted[video] = where.number
    formed: set[str] = set()
    silent = 0
    for where, video, track in json_members(name, captions):
        if video not in wanted:
            continue
        if video in formed:
            into.fail(where, f"video {shown(video)} occurs twice")
        formed.add(video)
        spoken = _track(into, where, track)
        silent += not spoken
        for clip in _drawn(video, spoken, dataset.clips_per_video, dataset.clip_seed):
            start, end = math.floor(clip.start), math.ceil(clip.end)
            clip_id = f"v_{video}_{start}_{end}"
            into.clip(
                Clip(clip_id, video, f"{video}.mp4", float(start), float(end), "verbal"), where
            )
            into.item(SplitItem("train", clip_id, (clip.text,)), where)
    absent = wanted.keys() - formed
    if absent or silent:
        into.note(
            f"{videos}: {len(absent) + silent:,} of {len(wanted):,} videos give no clip: "
            f"{len(absent):,} not in {captions.name}, {silent:,} without a caption that has words "
            "and a duration"
        )
    return into


def form_clip(track: Track, index: int) -> TimedCaption:
    """Grow caption `index` with its neighbours to MIN_WORDS words and MIN_SECONDS seconds.

    `track` is sorted by start. Stops early when all of it is taken. Times and text of the result
    cover all captions in it.
    """
    first = last = index
    start, end, text = track[index]
    words = len(text.split())
    while words < MIN_WORDS or end - start < MIN_SECONDS:
        left = max(end, track[first - 1][1]) - track[first - 1][0] if first > 0 else math.inf
        right = max(end, track[last + 1][1]) - start if last + 1 < len(track) else math.inf
        if left == right == math.inf:
            break
        if left <= right:
            first -= 1
            start, end = track[first][0], max(end, track[first][1])
            words += len(track[first][2].split())
        else:
            last += 1
            end = max(end, track[last][1])
            words += len(track[last][2].split())
    spoken = " ".join(caption[2] for caption in track[first : last + 1])
    return TimedCaption(start, end, " ".join(spoken.split()))


def _drawn(video: str, track: Track, number: int, seed: int) -> list[TimedCaption]:
    """Return the clips formed from `number` captions of a track, drawn without replacement."""
    digest = hashlib.sha256(f"{seed}:{video}".encode()).hexdigest()
    chance = random.Random(int(digest[:16], 16))
    chosen = chance.sample(range(len(track)), min(number, len(track)))
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
    return sorted(
        caption
        for caption in zip(starts, ends, texts, strict=True)
        if 0 <= caption[0] < caption[1] and caption[2] and not caption[2].isspace()
    )
