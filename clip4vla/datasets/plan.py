"""The plan of a dataset version: every clip, where it comes from, and its shard."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of
from clip4vla.config.data import Dataset
from clip4vla.datasets import read_annotations, reader_of
from clip4vla.datasets.labels import OLDER
from clip4vla.datasets.tables import BLOCK, Rows

PLAN_COLUMNS = {
    "clip_id": "string",
    "source_id": "string",
    "file": "string",
    "start": "float64",
    "end": "float64",
    "sound": "string",
    "shard": "int64",
    "annotated_start": "float64",
    "annotated_end": "float64",
}
SPLIT_COLUMNS = {"split": "string", "clip_id": "string", "captions": "object", "labels": "object"}
OLDER_SPLIT_COLUMNS = {
    OLDER.get(name, name): "string" if name in OLDER else kind
    for name, kind in SPLIT_COLUMNS.items()
}


def plan(name: str, dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of `plan_tables` as frames, of types PLAN_COLUMNS and SPLIT_COLUMNS."""
    clips, splits, _ = plan_tables(name, dataset)
    frame = splits.to_pandas()
    for name in ("captions", "labels"):
        frame[name] = [list(texts) for texts in frame[name]]
    return clips.to_pandas().astype(PLAN_COLUMNS), frame.astype(SPLIT_COLUMNS)


def plan_tables(name: str, dataset: Dataset) -> tuple[pa.Table, pa.Table, list[str]]:
    """Return what `plan_rows` does with whole tables, for datasets that are not too large."""
    clips, splits, notes = plan_rows(name, dataset)
    return clips.table(), splits.table(), notes


def plan_rows(name: str, dataset: Dataset) -> tuple[Rows, Rows, list[str]]:
    """Return the tables of clips (by clip_id) and splits (by split, clip_id), and reader's notes.

    `start` and `end` are the seconds to cut from the file that the dataset's source gives; they are
    missing where it gives the clip itself. `annotated_start` and `annotated_end` are those of the
    lists, for comparison with the length of the file. All clips of a source are in one shard, so
    that a source is looked up once; the shard depends only on the source's id and the number of
    shards. Raises UserError as `read_annotations` does.
    """
    annotations = read_annotations(name, dataset)
    files_are_clips = reader_of(name, dataset).FILES_ARE_CLIPS
    if dataset.cut_longer:
        start = annotations.clip_rows.table(["start"])["start"]
        if not files_are_clips or start.null_count == len(start):
            why = "its lists have no times" if files_are_clips else "its clips are cut anyway"
            raise UserError(f"datasets.{name}.cut_longer: {why}. Fix: leave it out")

    def planned(clips: pa.Table) -> pa.Table:
        start, end = clips["start"], clips["end"]
        if files_are_clips and dataset.gives_files:
            for time in ("start", "end"):
                column = clips.schema.get_field_index(time)
                clips = clips.set_column(column, time, pa.nulls(len(clips), pa.float64()))
        clips = clips.append_column("shard", _shards(clips, dataset.shards))
        clips = clips.append_column("annotated_start", start).append_column("annotated_end", end)
        return clips.replace_schema_metadata(_pandas_metadata(PLAN_COLUMNS))

    def split(items: pa.Table) -> pa.Table:
        return items.replace_schema_metadata(_pandas_metadata(SPLIT_COLUMNS))

    clips, splits = annotations.clip_rows.changed(planned), annotations.item_rows.changed(split)
    return clips, splits, annotations.notes


def in_frozen_form(splits: pa.Table, version: Path) -> pa.Table:
    """Return a planned table of splits in the form in which its version was frozen, if it was.

    An older version has one `label` a clip (`clip4vla.datasets.labels`). version: its folder.
    """
    for frozen in version.glob("cache-*/splits.parquet"):
        try:
            older = "label" in parquet.read_schema(frozen).names
        except (OSError, ValueError):  # `data verify` reports a damaged table
            continue
        if older:
            labels = pa.array([",".join(found) for found in splits["labels"].to_pylist()])
            splits = splits.drop_columns("labels").append_column("label", labels.cast(pa.string()))
            return splits.replace_schema_metadata(_pandas_metadata(OLDER_SPLIT_COLUMNS))
    return splits


def shard_of(source_id: str, shards: int) -> int:
    """Return the shard of a source's clips: a hash of its id, independent of all others."""
    return int(sha256_of(source_id)[:8], 16) % shards


def _shards(clips: pa.Table, shards: int) -> pa.ChunkedArray:
    parts = []
    for batch in clips.select(["source_id"]).to_batches(max_chunksize=BLOCK):
        sources = batch.column(0).dictionary_encode()
        numbers = [shard_of(source, shards) for source in sources.dictionary.to_pylist()]
        parts.append(np.array(numbers, dtype=np.int64)[sources.indices.to_numpy()])
    return pa.chunked_array([np.concatenate(parts)])


def _pandas_metadata(columns: dict[str, str]) -> dict[bytes, bytes]:
    """Return the metadata with which pandas reads a file with the types of `columns`."""
    empty = pd.DataFrame(columns=list(columns)).astype(columns)
    return pa.Schema.from_pandas(empty, preserve_index=False).metadata
