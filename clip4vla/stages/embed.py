"""Embedding of a user's own texts, sounds and videos into a table, npz or parquet."""

import csv
import io
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from pyarrow import Table
from torch import Tensor

from clip4vla.common.device import take
from clip4vla.common.errors import UserError
from clip4vla.common.hardware import Hardware, ReadingHardware
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.media.status import AudioStatus
from clip4vla.search.embedder import BATCH, Embedder, load, pooled
from clip4vla.search.files import media_files, name_some
from clip4vla.search.media import Kind, MediaWindow, read_groups
from clip4vla.search.table import check_format, embed_in_parts, lock_parts, write_table

SILENT = (AudioStatus.NO_AUDIO_STREAM, AudioStatus.DIGITAL_SILENCE)
FILES, TEXTS = 32, 4096  # inputs of one part, which an interruption can lose
TEXT_COLUMNS = ("text", "caption", "sentence")  # default columns of tables of texts, in order
Pool = Literal["mean", "none"]


@dataclass(frozen=True)
class Options:
    """Options of embedding media; see `clip4vla embed audio --help`."""

    pool: Pool = "mean"
    every: float | None = None  # seconds of a window
    nonverbal_share: float | None = None


def embed_texts(
    checkpoint: str | Path,
    sources: Sequence[str],
    out: Path,
    column: str | None = None,
    hardware: Hardware = Hardware(),
) -> None:
    """Write a table with one row per sentence."""
    check_format(out)
    device, _ = take(hardware)
    texts = [text for source in sources for text in read_texts(source, column)]
    embedder = load(checkpoint, device)

    def rows(part: Sequence[str]) -> list[dict]:
        vectors = iter(embedder.embed_text([text for text in part if text.strip()]))
        return [
            _row(text, "ok", next(vectors)) if text.strip() else _row(text, "empty")
            for text in part
        ]

    about = _about(embedder, "text", {})
    with lock_parts(out):
        table = embed_in_parts(out, texts, TEXTS, {**about, "inputs": texts}, rows, track)
        write_table(out, table, about)
    _report(table, out)


def embed_media(
    kind: Kind,
    checkpoint: str | Path,
    sources: Sequence[Path],
    out: Path,
    options: Options,
    hardware: ReadingHardware = ReadingHardware(),
    batch_size: int = BATCH,
) -> None:
    """Write a table with one row per file, window, or frame and segment."""
    check_format(out)
    if options.every is not None and not 1 <= options.every < math.inf:
        raise UserError(f"--every: {options.every} seconds is not valid. Fix: give 1 or more")
    device, readers = take(hardware)
    files = media_files(sources)
    embedder = load(checkpoint, device, batch_size)
    nonverbal_share = embedder.share_of_nb(options.nonverbal_share) if kind == "audio" else None
    if part := embedder.settings.model.not_in_vectors(embedder.settings.task):
        log.info(
            f"{checkpoint}: trained with {part}; these are the vectors of the towers, before it"
        )

    def rows(part: Sequence[Path]) -> list[dict]:
        groups = read_groups(
            kind, part, embedder.settings, options.every, processes=max(readers, 1), size=batch_size
        )
        numbered = [
            (clip.file, _rows_of(part[clip.file], clip, features, options.pool))
            for clip, features in embedder.encode(kind, groups, nonverbal_share)
        ]
        numbered.sort(key=lambda item: item[0])  # stable: the windows of a file are in order
        return [row for _, rows_of_file in numbered for row in rows_of_file]

    used = {"pool": options.pool, "every": options.every, "nonverbal_share": nonverbal_share}
    about = _about(embedder, kind, used)
    identity = {**about, "inputs": [_fingerprint(path) for path in files]}
    with lock_parts(out):
        table = embed_in_parts(out, files, FILES, identity, rows, track)
        write_table(out, table, about)
    _report(table, out)


def read_texts(source: str, column: str | None) -> list[str]:
    """Read sentences: the lines of a text file or of stdin (`-`), or a column of csv or tsv.

    Only LF and CR LF end a line. Raises UserError for other encodings and malformed tables.
    """
    suffix = Path(source).suffix.lower()
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{source}: not UTF-8. Fix: save it as UTF-8") from None
    if source != "-" and suffix in (".csv", ".tsv"):
        return _column(source, text, "," if suffix == ".csv" else "\t", column)
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _column(source: str, text: str, separator: str, column: str | None) -> list[str]:
    """Read one column of a table; every row must have as many fields as the header."""
    csv.field_size_limit(sys.maxsize)  # the default limit is 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    line = 1
    try:
        for row in reader:
            if rows and row and len(row) != len(rows[0]):
                raise UserError(
                    f"{source}:{line}: {len(row)} fields, but the header has {len(rows[0])}. Fix: "
                    'put fields that contain the separator in "quotes"'
                )
            rows += [row] if row else []  # skip empty lines
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{source}:{line}: not a row of a table ({error}). Fix: put fields that contain quotes "
            "in quotes, and double the inner ones"
        ) from None
    if not rows:
        raise UserError(f"{source}: empty. Fix: begin with a line that names the columns")
    header = rows[0]
    known = [column] if column else [*TEXT_COLUMNS, *header[: len(header) == 1]]
    for name in known:
        if header.count(name) > 1:
            raise UserError(f"{source}:1: two columns are named {name}. Fix: rename one of them")
        if name in header:
            return [row[header.index(name)] for row in rows[1:]]
    raise UserError(
        f"{source}: no column {' or '.join(known)}. Fix: pass --column with one of "
        + ", ".join(header)
    )


def _rows_of(path: Path, clip: MediaWindow, features: Tensor, pool: Pool) -> list[dict]:
    name = os.fsencode(path).decode(errors="backslashreplace")
    silent = clip.status in SILENT
    if pool == "mean" or not len(features):
        embedded = pool == "mean" and (len(features) or silent)
        vector = pooled(features) if embedded else None
        return [_row(name, clip.status, vector, clip.start, clip.end, clip.detail)]
    return [
        _row(name, clip.status, vector, begin, end, clip.detail)
        for vector, (begin, end) in zip(features.numpy(), clip.times, strict=True)
    ]


def _row(
    text: str,
    status: str,
    vector: np.ndarray | None = None,
    start: float = math.nan,
    end: float = math.nan,
    detail: str = "",
) -> dict:
    return {
        "input": text,
        "start": start,
        "end": end,
        "status": str(status),
        "detail": detail,
        "vector": vector,
    }


def _fingerprint(path: Path) -> list:
    about = path.stat()
    return [os.fsencode(path).decode(errors="backslashreplace"), about.st_size, about.st_mtime_ns]


def _about(embedder: Embedder, kind: str, options: dict) -> dict:
    """Return the provenance of the vectors, for the metadata of the file."""
    names = ("clip4vla", "torch", "torchaudio", "av", "pillow")
    assert embedder.source is not None, "set by `load`"
    return {
        "format": 1,
        "kind": kind,
        "dim": embedder.dim,
        "checkpoint": embedder.source.described(),
        "settings": embedder.settings.model_dump(mode="json"),
        "options": options,
        "versions": {name: version(name) for name in names},
    }


def _report(table: Table, out: Path) -> None:
    """Log which inputs were not embedded. Raises UserError when all but silent ones failed."""
    inputs, statuses = table["input"].to_pylist(), table["status"].to_pylist()
    bad = {(name, status) for name, status in zip(inputs, statuses, strict=True) if status != "ok"}
    counts = Counter(status for _, status in bad)
    listed = "".join(f", {count} {status}" for status, count in sorted(counts.items()))
    log.info(f"{len(table)} rows of {len(set(inputs))} inputs{listed}")
    failed = {
        row["input"]: row["detail"] or row["status"]
        for row in table.select(["input", "status", "detail"]).to_pylist()
        if row["status"] not in ("ok", *SILENT)
    }
    name_some(failed, f": see `status` in {out}")
    if failed and not {"ok", *SILENT} & set(statuses):
        raise UserError(
            f"{out}: no input could be embedded; see their status in it. Fix: give "
            f"{'texts' if 'empty' in statuses else 'sound or video files that play'}"
        )
