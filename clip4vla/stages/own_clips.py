"""Check a user's own clips before the first job: the table, and the files that it names."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.data import Dataset
from clip4vla.config.plan import Plan
from clip4vla.datasets import reader_named
from clip4vla.datasets.splits import lacking

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_LINES = 20  # of one kind of problem


@dataclass
class Found:
    """What a check has found: lines of information, and problems with their fix."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add_problems(self, lines: list[str]) -> None:
        """Add problems of one kind: the first of them, and the number of the others."""
        self.problems += lines[:MOST_LINES]
        if len(lines) > MOST_LINES:
            self.problems.append(f"... and {len(lines) - MOST_LINES:,} more of this kind")


def own_problems(plan: Plan) -> list[str]:
    """Return a line for each own table that is invalid, lacks a split, or changed since planned."""
    lines = []
    for version, name, dataset in _own(plan):
        from clip4vla.datasets.plan import plan_tables

        try:
            clips, splits, _ = plan_tables(name, dataset)
        except UserError as error:
            lines.append(str(error))
            continue
        lines += lacking(plan, name, splits["split"].unique().to_pylist(), "by its table")
        if _has_changed(version, clips, splits):
            frozen = any(Path(layout.data_dir(version)).glob("cache-*/manifest.json"))
            delete = "" if frozen else f"delete {layout.data_dir(version)}, or "
            lines.append(
                f"{name}: {dataset.annotations}: changed since {version} was planned from it. Fix: "
                f"{delete}set datasets.{name}.version to another name than {dataset.version}"
            )
    return lines


def own_media(plan: Plan, decode: bool) -> Found:
    """Describe own tables without problems, and look for their local files.

    decode: also decode each file once, and compare the contents of files in different splits.
    """
    found = Found()
    for version, name, dataset in _own(plan):
        from clip4vla.datasets.plan import plan_tables

        clips, splits, notes = plan_tables(name, dataset)
        found.lines += [_described(name, version, splits), *notes]
        if dataset.source == "local" and dataset.media is not None:
            frame = clips.to_pandas().merge(splits.to_pandas()[["clip_id", "split"]], on="clip_id")
            _look_for_files(found, frame, name, dataset.media)
            if decode and not found.problems:
                _decode_files(found, frame, name, dataset.media)
    return found


def _own(plan: Plan) -> list[tuple[str, str, Dataset]]:
    """Return (version, name, section) of the datasets whose table exists and is the user's own."""
    every = sorted((plan.versions | plan.listed).items())
    datasets = [(version, name, plan.config.datasets[name]) for version, name in every]
    return [
        item
        for item in datasets
        if getattr(reader_named(item[2].reader), "IS_OWN", False) and item[2].annotations.exists()
    ]


def _has_changed(version: str, clips: "pa.Table", splits: "pa.Table") -> bool:
    """Return whether a version was planned from other clips or splits than the table has now."""
    from clip4vla.common.parquet import read_columns

    for table, file in ((clips, "plan.parquet"), (splits, "splits.parquet")):
        path = Path(layout.data_dir(version), file)
        if path.is_file():
            planned = read_columns(path, layout.remake(path), table.column_names)
            if not planned.equals(table):
                return True
    return False


def _described(name: str, version: str, splits: "pa.Table") -> str:
    counts = Counter(splits["split"].to_pylist())
    captions = sum(len(texts) for texts in splits["captions"].to_pylist())
    labels = {label for some in splits["labels"].to_pylist() for label in some}
    by_split = ", ".join(f"{split} {count:,}" for split, count in sorted(counts.items()))
    return (
        f"{name}: {len(splits):,} clips ({by_split}), {captions:,} captions, {len(labels):,} "
        f"labels; version {version}"
    )


def _look_for_files(found: Found, clips: "pd.DataFrame", name: str, media: Path) -> None:
    from clip4vla.media.local import source_file, unreadable

    missing = []
    files = clips.drop_duplicates("file")
    for row in files.itertuples():
        try:
            problem = unreadable(path := source_file(row.clip_id, row.file, media))
        except UserError as error:
            missing.append(f"{name}: {error}")
            continue
        if problem:
            missing.append(
                f"{name}: {path}: {problem}, for clip {row.clip_id}. Fix: put it there, or remove "
                "the clip's rows"
            )
    found.lines.append(f"{name}: {len(files) - len(missing):,} of {len(files):,} files are there")
    found.add_problems(missing)


def _decode_files(found: Found, clips: "pd.DataFrame", name: str, media: Path) -> None:
    from clip4vla.media.ledger import usable
    from clip4vla.media.lengths import LEAST_SECONDS
    from clip4vla.media.probe import probe_shard

    files = clips.drop_duplicates("file").assign(fetch="ok")
    files = files.assign(path=[str(media / file) for file in files.file])
    probed = files[["clip_id", "file", "path", "fetch"]].merge(probe_shard(files), on="clip_id")
    good = usable(probed)
    found.add_problems(
        [
            f"{name}: {row.path}: not usable: video {row.video}, audio {row.audio}. Fix: replace "
            "the file, or remove its clips"
            for row in probed[~good].itertuples()
        ]
    )
    silent = probed[good & (probed.audio != "ok")]
    first = f" (first: {silent.file.iloc[0]}, {silent.audio.iloc[0]})" if len(silent) else ""
    found.lines.append(
        f"{name}: {int(good.sum()):,} of {len(files):,} files decode, {len(silent):,} of them "
        f"without sound{first}"
    )
    seconds = dict(zip(probed.file, probed.duration.where(good), strict=True))
    late = [row for row in clips.itertuples() if row.end > seconds[row.file] + LEAST_SECONDS]
    found.add_problems(
        [
            f"{name}: clip {row.clip_id}: ends at {row.end:g} s, but {row.file} has "
            f"{seconds[row.file]:.1f} s. Fix: correct its times"
            for row in late
        ]
    )
    _compare_contents(found, clips, name, media)


def _compare_contents(found: Found, clips: "pd.DataFrame", name: str, media: Path) -> None:
    """Report copies of a file under other names in another split."""
    from clip4vla.common.files import sha256_of_file

    firsts: dict[str, tuple[str, str]] = {}
    copies = []
    for row in clips.drop_duplicates("file").itertuples():
        split, file = firsts.setdefault(sha256_of_file(media / row.file), (row.split, row.file))
        if split != row.split:
            copies.append(
                f"{name}: {row.file} ({row.split}) has the content of {file} ({split}). Fix: give "
                "both one `source`, or remove one"
            )
    found.add_problems(copies)
