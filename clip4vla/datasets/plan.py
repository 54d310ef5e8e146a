"""The plan of a dataset version: every clip, where it comes from, and its shard."""

import pandas as pd

from clip4vla.config.data import Dataset
from clip4vla.datasets import Clip, read_annotations, reader_of
from clip4vla.files import sha256_of

PLAN_COLUMNS = {
    "clip_id": "string",
    "source_id": "string",
    "file": "string",
    "start": "float64",
    "end": "float64",
    "sound": "string",
    "shard": "int64",
}
SPLIT_COLUMNS = {"split": "string", "clip_id": "string", "captions": "object", "label": "string"}


def plan(name: str, dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of clips (PLAN_COLUMNS, by clip_id) and of splits (SPLIT_COLUMNS, by split, clip_id).

    `start` and `end` are the seconds to cut from what the dataset's source gives; they are missing
    where the source gives the clip itself. All clips of a source are in one shard, so that a source
    is looked up once; the shard depends on nothing but the source's id and the number of shards
    (engineering F.7). Raises UserError as `read_annotations` does.
    """
    annotations = read_annotations(name, dataset)
    whole = reader_of(name, dataset).FILES_ARE_CLIPS and _gives_files(dataset)
    clips = sorted(annotations.clips, key=lambda clip: clip.clip_id)
    table = pd.DataFrame(
        [
            (
                clip.clip_id,
                clip.source_id,
                clip.file,
                None if whole else clip.start,
                None if whole else clip.end,
                clip.sound,
                shard_of(clip, dataset.shards),
            )
            for clip in clips
        ],
        columns=list(PLAN_COLUMNS),
    ).astype(PLAN_COLUMNS)
    items = sorted(annotations.splits, key=lambda item: (item.split, item.clip_id))
    splits = pd.DataFrame(
        [(item.split, item.clip_id, list(item.captions), item.label) for item in items],
        columns=list(SPLIT_COLUMNS),
    ).astype(SPLIT_COLUMNS)
    return table, splits


def shard_of(clip: Clip, shards: int) -> int:
    """The shard of a clip: a hash of its source's id, independent of all other clips."""
    return int(sha256_of(clip.source_id)[:8], 16) % shards


def _gives_files(dataset: Dataset) -> bool:
    """Whether the source hands out the files of the media folder, not the original uploads."""
    by_file = dataset.source == "http" and "{file}" in (dataset.url or "")
    return dataset.source == "local" or by_file
