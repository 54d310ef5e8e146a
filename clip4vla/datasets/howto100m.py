"""HowTo100M (Miech et al. 2019) as narrated clips for pre-training; facts 6.1, 11.

Files: HOWTO100M_videos.csv (column video_id; a subset of the videos is fine) and caption.json, the
raw captions {video_id: {"start": [...], "end": [...], "text": [...]}}, read as a stream because it
is gigabytes. Media are whole videos `<video_id>.mp4`; clips are cut from them.

From each video CLIPS_PER_VIDEO captions are drawn by SEED and the video's id alone, so that a
change of the list changes no other video's clips. Each grows with its neighbours until it has
MIN_WORDS words and MIN_SECONDS seconds, on the side that gives the shorter clip (left on a tie),
as in the released code, which draws anew whenever a video is read; here clips are fixed when the
dataset is planned, for then they can be cut once and counted. Clip ids are
`v_<video_id>_<start>_<end>`, seconds. Split: train.
"""

import hashlib
import math
import random
from typing import NamedTuple

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Annotations, Clip, Collector, SplitItem
from clip4vla.datasets.numbers import seconds, youtube_id
from clip4vla.datasets.official import json_members, official_file, rows

FILES_ARE_CLIPS = False
CLIPS_PER_VIDEO = 4  # draws; two draws that grow into the same clip count once
SEED = 0
MIN_WORDS = 5
MIN_SECONDS = 10.0


class Caption(NamedTuple):
    """One line of a video's speech track; times in seconds."""

    start: float
    end: float
    text: str


def read(name: str, dataset: Dataset) -> Annotations:
    """Read the list and form clips for each listed video that has captions.

    Raises UserError for a listed video without captions: such a row can never be used.
    """
    videos = official_file(name, dataset, "HOWTO100M_videos.csv", "the list of videos (video_id)")
    captions = official_file(name, dataset, "caption.json", "HowTo100M's raw captions")
    into = Collector(name)
    wanted: dict[str, str] = {}
    for where, row in rows(name, videos, ("video_id",)):
        video = youtube_id(into, where, row["video_id"].strip())
        if video in wanted:
            into.fail(where, f"video {video} occurs twice (first in {wanted[video]})")
        wanted[video] = where
    for where, video, track in json_members(name, captions):
        if wanted.pop(video, None) is None:
            continue
        for clip in _drawn(video, _track(into, where, track)):
            start, end = math.floor(clip.start), math.ceil(clip.end)
            clip_id = f"v_{video}_{start}_{end}"
            into.clip(
                Clip(clip_id, video, f"{video}.mp4", float(start), float(end), "verbal"), where
            )
            into.item(SplitItem("train", clip_id, (clip.text,)), where)
    for video, where in wanted.items():
        into.fail(where, f"video {video} has no captions in {captions}: take it off the list")
    return into.annotations()


def form_clip(track: list[Caption], index: int) -> Caption:
    """Grow caption `index` with its neighbours to MIN_WORDS words and MIN_SECONDS seconds.

    Stops early when the whole track is taken. Times and text of the result cover all captions in
    it.
    """
    first = last = index

    def joined(a: int, b: int) -> Caption:
        part = track[a : b + 1]
        text = " ".join(caption.text for caption in part)
        return Caption(part[0].start, max(caption.end for caption in part), text)

    clip = track[index]
    while len(clip.text.split()) < MIN_WORDS or clip.end - clip.start < MIN_SECONDS:
        options = []
        if first > 0:
            options.append((joined(first - 1, last), first - 1, last))
        if last + 1 < len(track):
            options.append((joined(first, last + 1), first, last + 1))
        if not options:
            break
        clip, first, last = min(options, key=lambda option: option[0].end - option[0].start)
    return clip


def _drawn(video: str, track: list[Caption]) -> list[Caption]:
    digest = hashlib.sha256(f"{SEED}:{video}".encode()).hexdigest()
    chance = random.Random(int(digest[:16], 16))
    chosen = chance.sample(range(len(track)), min(CLIPS_PER_VIDEO, len(track)))
    clips = {}
    for index in sorted(chosen):
        clip = form_clip(track, index)
        clips.setdefault((math.floor(clip.start), math.ceil(clip.end)), clip)
    return list(clips.values())


def _track(into: Collector, where: str, track: object) -> list[Caption]:
    lists = [
        track.get(key) if isinstance(track, dict) else None for key in ("start", "end", "text")
    ]
    if not all(isinstance(column, list) for column in lists):
        into.fail(where, "lists `start`, `end` and `text` are wanted")
    if len({len(column) for column in lists}) > 1:
        into.fail(where, "`start`, `end` and `text` have different lengths")
    captions = []
    for number, (start, end, text) in enumerate(zip(*lists, strict=True)):
        here = f"{where}, caption {number}"
        begin, stop = seconds(into, here, "start", start), seconds(into, here, "end", end)
        text = " ".join(text.split()) if isinstance(text, str) else ""
        if text and 0 <= begin < stop:  # automatic tracks do hold blank and empty lines
            captions.append(Caption(begin, stop, text))
    if not captions:
        into.fail(where, "no caption with words and a duration: take the video off the list")
    return sorted(captions)
