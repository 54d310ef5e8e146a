"""UCF101 (Soomro et al. 2012): 13,320 videos of 101 actions with three official splits; facts 9.2.

Files, as in the archive ucfTrainTestlist: classInd.txt (`1 ApplyEyeMakeup`), trainlist01..03.txt
(`ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`) and testlist01..03.txt (the same without the
number). Media are the folders of the archive UCF-101, one a class.

Videos of one group (g01 to g25) of a class are cut from the same source. No official test list has
the groups 22 to 25, so they can be held out of any training list to choose a checkpoint on.
Splits, for k in 1..3: train_k, test_k; train_ours_k, val_ours_k (groups 22 to 25 of train_k).
"""

import re
from pathlib import Path

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.official import lines, official_file

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
LISTS = (1, 2, 3)
HELD_OUT = range(22, 26)  # groups
PROTOCOLS = {f"split_{k}": Protocol(f"train_{k}", None, f"test_{k}") for k in LISTS} | {
    f"split_{k}_ours": Protocol(f"train_ours_{k}", f"val_ours_{k}", f"test_{k}") for k in LISTS
}
_TEST_CLIPS = {1: 3783, 2: 3734, 3: 3696}
BENCHMARKS = {f"test_{k}": Benchmark("3-split", clips=_TEST_CLIPS[k]) for k in LISTS}
_VIDEO = re.compile(r"([A-Za-z]{1,40})/(v_([A-Za-z]{1,40})_g([0-9]{2})_c([0-9]{2}))\.avi", re.ASCII)
_CLASS = re.compile(r"([0-9]{1,3}) ([A-Za-z]{1,40})", re.ASCII)


def read(name: str, dataset: Dataset) -> Collector:
    """Read the class index and the six lists; label of a video: its class, caption: its words."""
    into = Collector(name, dataset.annotations)
    index = official_file(name, dataset, "classInd.txt", "UCF101's list of classes")
    numbers = _classes(name, index, into)
    videos: set[str] = set()
    groups: dict[str, tuple[str, Where]] = {}
    for k in LISTS:
        for split in ("train", "test"):
            content = f"the videos of {split} split {k}"
            path = official_file(name, dataset, f"{split}list0{k}.txt", content)
            for where, line in lines(name, path):
                action, video, group = _video(into, where, line, numbers)
                source = f"{video.rpartition('_')[0]}"
                known, place = groups.setdefault(f"{k} {source}", (split, where))
                if known != split:
                    into.fail(where, f"group {source} is also in {known}list0{k} ({place})")
                if video not in videos:
                    videos.add(video)
                    into.clip(Clip(video, source, f"{action}/{video}.avi"), where)
                caption = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", action).lower()
                ours = f"{'val' if group in HELD_OUT else 'train'}_ours_{k}"
                for part in (f"{split}_{k}", *([ours] if split == "train" else [])):
                    into.item(SplitItem(part, video, (caption,), (action,)), where)
    return into


def _classes(name: str, path: Path, into: Collector) -> dict[str, str]:
    """Return the number of every class, by its name."""
    numbers: dict[str, str] = {}
    for where, line in lines(name, path):
        parts = _CLASS.fullmatch(line)
        if parts is None:
            into.fail(where, f"invalid line {shown(line)}: must be like `1 ApplyEyeMakeup`")
        if parts[2] in numbers or parts[1] in numbers.values():
            into.fail(where, f"class {shown(line)} or its number occurs twice")
        numbers[parts[2]] = parts[1]
    return numbers


def _video(
    into: Collector, where: Where, line: str, numbers: dict[str, str]
) -> tuple[str, str, int]:
    """Return (class, video, group) of a line of a list, after comparing its class number."""
    file, _, number = line.partition(" ")
    parts = _VIDEO.fullmatch(file)
    # The archive itself writes HandstandPushups/v_HandStandPushups_g01_c01.avi.
    if parts is None or parts[1].lower() != parts[3].lower():
        into.fail(
            where, f"invalid file {shown(file)}: must be <class>/v_<class>_g<group>_c<clip>.avi"
        )
    if parts[1] not in numbers:
        into.fail(where, f"class {shown(parts[1])} is not in classInd.txt")
    if number and number != numbers[parts[1]]:
        into.fail(where, f"class number is {shown(number)}, but classInd.txt says {parts[1]} is "
                  f"{numbers[parts[1]]}")  # fmt: skip
    return parts[1], parts[2], int(parts[4])
