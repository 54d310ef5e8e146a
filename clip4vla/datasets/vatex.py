"""VATEX (Wang et al. 2019) with the HGR retrieval split (Chen et al. 2020); facts 7.5, 11.

Files: vatex_training_v1.0.json, vatex_validation_v1.0.json, vatex_public_test_english_v1.1.json
(lists of {videoID, enCap}), and the videoIDs of the two halves of the validation set that retrieval
uses: vatex_retrieval_val.txt and vatex_retrieval_test.txt, one a line, or HGR's own val_names.npy
and tst_names.npy (arrays of texts; never a pickle). Media are files `<videoID>.mp4`, one per clip.

videoID is `<YouTube id>_<start>_<end>` (seconds). YouTube ids may begin with "-", so clip ids are
`v_<videoID>`. Splits: train, val, test (retrieval), caption_val, caption_test. caption_val is the
whole validation set, so val and test lie in it.
"""

import re
from pathlib import Path

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.official import first_present, json_file, lines, official_file

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
PROTOCOLS = {
    "retrieval": Protocol("train", "val", "test"),
    "captioning": Protocol("train", "caption_val", "caption_test"),
}
BENCHMARKS = {
    "test": Benchmark("HGR", captions=10, clips=1500),
    "caption_test": Benchmark("official", captions=10, clips=6000),
}
_VIDEO_ID = re.compile(r"([A-Za-z0-9_-]{11})_(\d{1,6})_(\d{1,6})", re.ASCII)
_LISTS = {
    "train": ("vatex_training_v1.0.json", "VATEX's training captions"),
    "caption_val": ("vatex_validation_v1.0.json", "VATEX's validation captions"),
    "caption_test": (
        "vatex_public_test_english_v1.1.json",
        "VATEX's public test set with English captions",
    ),
}
_HALVES = {
    "val": (
        ("vatex_retrieval_val.txt", "the retrieval validation videoIDs, one a line"),
        ("val_names.npy", "HGR's retrieval validation videoIDs"),
    ),
    "test": (
        ("vatex_retrieval_test.txt", "the retrieval test videoIDs, one a line"),
        ("tst_names.npy", "HGR's retrieval test videoIDs"),
    ),
}


def read(name: str, dataset: Dataset) -> Collector:
    """Read the five files; every item has all English captions of its video (10 officially)."""
    from clip4vla.datasets.npy import npy_lines  # numpy, for which a plan need not wait

    lists = {
        split: official_file(name, dataset, filename, content)
        for split, (filename, content) in _LISTS.items()
    }
    halves = {split: first_present(name, dataset, files)[0] for split, files in _HALVES.items()}
    into = Collector(name, dataset.annotations)
    captions = {split: _captions(name, path, split, into) for split, path in lists.items()}
    for split, path in halves.items():
        read_ids = npy_lines if path.suffix == ".npy" else lines
        for where, video in read_ids(name, path):
            if video not in captions["caption_val"]:
                into.fail(where, f"{shown(video)} is not in {lists['caption_val']}")
            into.item(SplitItem(split, f"v_{video}", captions["caption_val"][video]), where)
    return into


def _captions(name: str, path: Path, split: str, into: Collector) -> dict[str, tuple[str, ...]]:
    """Add the clip and the item of every video; return the captions of each video."""
    captions_of: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(json_file(name, path, list)):
        where = Where(path, "entry", number)
        video = entry.get("videoID") if isinstance(entry, dict) else None
        if not isinstance(video, str) or (parts := _VIDEO_ID.fullmatch(video)) is None:
            into.fail(where, f"invalid videoID {shown(video)}: must be <YouTube id>_<start>_<end>")
        captions = entry.get("enCap")
        if not isinstance(captions, list):
            into.fail(where, f"invalid enCap {shown(captions)}: must be a list of texts")
        start, end = float(parts[2]), float(parts[3])
        into.clip(Clip(f"v_{video}", parts[1], f"{video}.mp4", start, end, "unknown"), where)
        into.item(SplitItem(split, f"v_{video}", tuple(captions)), where)
        captions_of[video] = tuple(captions)
    return captions_of
