"""Clips of pre-training and of validation and test that come from the same videos.

AudioCaps is a part of AudioSet, and MSR-VTT, VATEX and HowTo100M are all cut from YouTube. A model
must not be pre-trained on the videos that it is scored on. Videos are compared by source id.
`held_out` of a dataset names the splits that pre-training must not see; what it has seen of any
other split is counted when that is scored. Only lists are read, so a clip counts whether or not its
media still exist.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_ids
from clip4vla.common.parquet import read_columns
from clip4vla.config.layout import remake
from clip4vla.config.run import HeldOut, Pretrain, Source

Folder = Callable[[str], str | Path]  # of a planned dataset version: plan.parquet, splits.parquet


@dataclass(frozen=True)
class Leaks:
    """The clips that a pre-training run leaves out.

    `clips`: dataset version -> its clips from held-out videos, in any split; `facts`: the compared
    splits and videos, for train.json.
    """

    clips: dict[str, frozenset[str]]
    facts: dict


def find_leaks(held_out: Iterable[HeldOut], versions: Iterable[str], folder: Folder) -> Leaks:
    """Find the clips of the dataset `versions` that are cut from videos of the `held_out` splits.

    Raises UserError when a list is not planned yet or a split does not exist.
    """
    sources: set[str] = set()
    compared = {}
    for held in held_out:
        videos = _held_out_sources(Path(folder(held.dataset)), held)
        compared[held.dataset] = {"splits": sorted(held.splits), "videos": len(videos)}
        sources |= videos
    clips = {
        version: _clips_from(Path(folder(version)), sources) for version in dict.fromkeys(versions)
    }
    facts = {"held_out": compared, "videos": len(sources), "videos_sha256": sha256_of_ids(sources)}
    return Leaks(clips, facts)


def clips_seen(runs: Iterable[Pretrain], scored: Source, folder: Folder) -> frozenset[str]:
    """Return the clips of a scored split that are cut from videos that pre-training runs have read.

    Raises UserError when a list is missing.
    """
    own = _clips_of(Path(folder(scored.dataset)), [scored.split])
    seen: set[str] = set()
    for run in runs:
        versions = [source.dataset for source in run.sources]
        dropped = find_leaks(run.held_out, versions, folder).clips
        for source in run.sources:
            read = _clips_of(Path(folder(source.dataset)), [source.split])
            read = read.filter(pc.is_in(read["source_id"], value_set=own["source_id"]))
            left_out = pa.array(sorted(dropped[source.dataset]), pa.string())
            kept = pc.invert(pc.is_in(read["clip_id"], value_set=left_out))
            seen |= set(read.filter(kept)["source_id"].to_pylist())
    among = pc.is_in(own["source_id"], value_set=pa.array(sorted(seen), pa.string()))
    return frozenset(own.filter(among)["clip_id"].to_pylist())


def _held_out_sources(folder: Path, held: HeldOut) -> set[str]:
    """Return the source ids of the clips of the held-out splits of one dataset."""
    items = _read(folder / "splits.parquet", ["split", "clip_id"])
    if unknown := set(held.splits) - set(items["split"].unique().to_pylist()):
        raise UserError(
            f"{held.dataset}: held_out names split {sorted(unknown)[0]!r}, which its lists do not "
            "have. Fix: correct it in the config"
        )
    return set(_clips_of(folder, held.splits)["source_id"].to_pylist())


def _clips_of(folder: Path, splits: list[str]) -> pa.Table:
    """Return clip_id and source_id of the clips of a planned dataset that are in these splits."""
    items = _read(folder / "splits.parquet", ["split", "clip_id"])
    wanted = pc.is_in(items["split"], value_set=pa.array(splits, pa.string()))
    plan = _read(folder / "plan.parquet", ["clip_id", "source_id"])
    return plan.filter(pc.is_in(plan["clip_id"], value_set=items.filter(wanted)["clip_id"]))


def _clips_from(folder: Path, sources: set[str]) -> frozenset[str]:
    """Return the clips of a planned dataset that are cut from one of these sources."""
    plan = _read(folder / "plan.parquet", ["clip_id", "source_id"])
    among = pc.is_in(plan["source_id"], value_set=pa.array(sorted(sources), pa.string()))
    return frozenset(plan.filter(among)["clip_id"].to_pylist())


def _read(path: Path, columns: list[str]) -> pa.Table:
    table = read_columns(path, remake(path), columns)
    return table.cast(pa.schema([(name, pa.string()) for name in columns]))
