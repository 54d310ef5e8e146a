"""ESC-50 (Piczak 2015): 2,000 sounds of 5 s in 50 classes, dealt to five folds; facts 9.1.

File: meta/esc50.csv as published: filename, fold, target, category, esc10, src_file, take. Media
are the folder audio beside meta, so `annotations` and `media` may both be the unpacked archive.

Protocols `fold_1` to `fold_5`: train on the other four folds, test on that one. A checkpoint must
not be chosen on the fold that is scored, so in `fold_1_ours` and so on the following fold (1 after
5) is held out for that. Splits, for k in 1..5: train_k, test_k; train_ours_k, val_ours_k.
"""

import re

from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem, Where, shown
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.official import official_file, rows

FILES_ARE_CLIPS = True
NAMES_ALL_SPLITS = True
FOLDS = (1, 2, 3, 4, 5)
PROTOCOLS = {f"fold_{k}": Protocol(f"train_{k}", None, f"test_{k}") for k in FOLDS} | {
    f"fold_{k}_ours": Protocol(f"train_ours_{k}", f"val_ours_{k}", f"test_{k}") for k in FOLDS
}
BENCHMARKS = {f"test_{k}": Benchmark("5-fold", clips=400) for k in FOLDS}
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_FILENAME = re.compile(r"([1-5])-([0-9]{1,12})-([A-Z]{1,2})-([0-9]{1,3})\.wav", re.ASCII)


def read(name: str, dataset: Dataset) -> Collector:
    """Read the table; label and caption of a sound are its category."""
    path = official_file(name, dataset, "meta/esc50.csv", "ESC-50's table of sounds")
    into = Collector(name, dataset.annotations)
    targets: dict[str, tuple[str, Where]] = {}
    recordings: dict[str, tuple[str, Where]] = {}
    for where, row in rows(name, path, _COLUMNS):
        parts = _FILENAME.fullmatch(row["filename"])
        if parts is None:
            into.fail(
                where,
                f"invalid filename {shown(row['filename'])}: "
                "must be <fold>-<src_file>-<take>-<target>.wav",
            )
        for number, column in enumerate(("fold", "src_file", "take", "target"), 1):
            if row[column] != parts[number]:
                into.fail(
                    where, f"{column} is {shown(row[column])}, but filename says {parts[number]}"
                )
        _check_same(into, where, row, key="target", of="category", earlier=targets)
        _check_same(into, where, row, key="src_file", of="fold", earlier=recordings)
        clip_id = row["filename"].removesuffix(".wav")
        source = f"freesound_{row['src_file']}"
        into.clip(Clip(clip_id, source, f"audio/{row['filename']}", None, None, "nonverbal"), where)
        for split in _splits(int(row["fold"])):
            caption = row["category"].replace("_", " ")
            into.item(SplitItem(split, clip_id, (caption,), (row["category"],)), where)
    return into


def _splits(fold: int) -> list[str]:
    """Return the splits that a sound of `fold` is in."""
    splits = []
    for k in FOLDS:
        held_out = k % len(FOLDS) + 1
        splits.append(f"test_{k}" if fold == k else f"train_{k}")
        if fold != k:
            splits.append(f"val_ours_{k}" if fold == held_out else f"train_ours_{k}")
    return splits


def _check_same(
    into: Collector,
    where: Where,
    row: dict[str, str],
    *,
    key: str,
    of: str,
    earlier: dict[str, tuple[str, Where]],
) -> None:
    """Refuse a row whose `of` is not that of an earlier row with the same `key`.

    A class has one name, and a recording is in one fold: else the folds would leak.
    """
    known, place = earlier.setdefault(row[key], (row[of], where))
    if known != row[of]:
        into.fail(
            where, f"{key} {shown(row[key])} has {of} {shown(row[of])}, but {known} in {place}"
        )
