"""Estimate of the cost of a plan: GPU hours by run, downloads and disk by dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.cache.manifest import read_manifest
from clip4vla.common.progress import track
from clip4vla.config import layout
from clip4vla.config.data import Cache, Dataset
from clip4vla.config.plan import Plan
from clip4vla.cost.assumptions import (
    JPEG_BYTES,
    LOG_MEL_BYTES,
    MEDIA_BYTES_PER_SECOND,
    WAVEFORM_BYTES,
    typical,
)
from clip4vla.cost.kept import KeptCounts
from clip4vla.cost.models import Models
from clip4vla.cost.runs import Counts, flops, v100_flops
from clip4vla.datasets import own_clips

MEAN_PAUSE = 1.75  # of the random pause between clips: 1 to 2.5 times `clip_pause`


@dataclass(frozen=True)
class RunCost:
    """Cost of one run. `hours`: of one GPU; None: the sizes of its data are not declared."""

    key: str
    stage: str
    name: str
    done: bool
    hours: float | None


@dataclass(frozen=True)
class DataCost:
    """Cost of one dataset version in one cache. `frozen`: nothing is left to do."""

    version: str
    clips: int | None
    shards: int
    frozen: bool
    cache_bytes: float
    fetched: int  # clips that come over the network
    fetch_hours: float  # at least, from the pauses of the config
    media_bytes: float  # of downloads; a user's own files are not copied


@dataclass(frozen=True)
class Estimate:
    """Cost of a plan."""

    runs: list[RunCost]
    data: list[DataCost]
    flops_per_second: float

    def hours(self, *, done: bool | None = None, stage: str | None = None) -> float:
        """Return GPU hours, of all runs or of those that are (not) done or of one stage."""
        return sum(
            run.hours or 0.0
            for run in self.runs
            if done in (None, run.done) and stage in (None, run.stage)
        )


def estimate(plan: Plan, flops_per_second: float | None = None) -> Estimate:
    """Estimate the cost of a plan on a GPU of this effective speed; None: a V100's.

    Raises UserError for a frozen dataset with a corrupt manifest.
    """
    kept = KeptCounts()
    counts, models = clip_counts(plan), Models(kept.known)
    speed = v100_flops(models) if flops_per_second is None else flops_per_second
    names = plan.names()
    ordered = [
        (stage, key)
        for stage in layout.RUN_FILES
        for key in sorted(plan.stage(stage), key=lambda key: names.get(key, ""))
    ]
    runs = []
    for stage, key in track(ordered, "count operations"):
        work = flops(plan, plan.runs[key], counts, models)
        cost = RunCost(
            key=key,
            stage=stage,
            name=names.get(key, ""),
            done=layout.is_done(stage, key),
            hours=work / speed / 3600 if work > 0 else None,
        )
        runs.append(cost)
    kept.write()
    return Estimate(runs, data_costs(plan), speed)


def data_costs(plan: Plan) -> list[DataCost]:
    """Return the costs of all datasets. Raises UserError for a corrupt manifest."""
    return [_data_cost(plan, version, cache_id) for version, cache_id in sorted(plan.caches)]


def clip_counts(plan: Plan) -> Counts:
    """Return the clips of every split: of the frozen version, else as declared, else as listed.

    Only a user's own table is read for it.
    """
    counts: Counts = {}
    for version, name in plan.versions.items():
        dataset = plan.config.datasets[name]
        for split, clips in own_clips(name, dataset).items():
            counts[version, split] = clips, clips
        for split, declared in dataset.expected.items():
            sounding = declared.clips if declared.with_sound is None else declared.with_sound
            counts[version, split] = declared.clips, sounding
    for version, cache_id in plan.caches:
        for split, frozen in (_frozen(version, cache_id) or {"splits": {}})["splits"].items():
            counts[version, split] = frozen["usable"], frozen["usable"] - frozen["silent"]
    return counts


def _frozen(version: str, cache_id: str) -> dict[str, Any] | None:
    """Return the manifest; None if not frozen. Raises UserError for a corrupt one."""
    path = Path(layout.manifest(version, cache_id))
    return read_manifest(path) if path.is_file() else None


def _data_cost(plan: Plan, version: str, cache_id: str) -> DataCost:
    name, dataset = plan.dataset_of(version)
    frozen = _frozen(version, cache_id)
    read = {place[1] for place in plan.places if len(place) == 2 and place[0] == name}
    clips = frozen["clips"]["usable"] if frozen else _different_clips(dataset, read)
    if not frozen and (own := own_clips(name, dataset)):
        clips = sum(own.values())  # a clip of one's own is in one split
    seconds = (clips or 0) * typical(dataset.reader).seconds
    cache_bytes = seconds * cached_bytes_per_second(plan.caches[version, cache_id])
    if frozen:
        cache_bytes = sum(shard["tar_bytes"] for shard in frozen["shards"])
    over_network = dataset.source != "local" and not frozen
    fetched = (clips or 0) if over_network else 0
    rate = dataset.rate
    pauses = rate.request_pause + rate.clip_pause * MEAN_PAUSE
    waiting = fetched * pauses / rate.slots if dataset.source == "youtube" else 0.0
    return DataCost(
        version=version,
        clips=clips,
        shards=dataset.shards,
        frozen=frozen is not None,
        cache_bytes=cache_bytes,
        fetched=fetched,
        fetch_hours=waiting / 3600,
        media_bytes=fetched * typical(dataset.reader).seconds * MEDIA_BYTES_PER_SECOND,
    )


def _different_clips(dataset: Dataset, read: set[str]) -> int | None:
    """Return the expected number of distinct clips; None where nothing is known.

    Splits may overlap, so their sum is too large for a dataset with folds. It is used where it is
    smaller and all splits that are read are declared.
    """
    kind = typical(dataset.reader)
    usual = kind.clips
    declared = sum(
        split.clips for name, split in dataset.expected.items() if name not in kind.within
    )
    if not usual or (declared and read <= dataset.expected.keys()):
        return min(filter(None, (usual, declared)), default=None)
    return usual


def cached_bytes_per_second(cache: Cache) -> float:
    """Return the bytes of one second of a clip: stereo sound as it is kept, and JPEG frames."""
    mel = cache.log_mel
    channels = 3 if mel.channels == "left_mean_right" else 1
    log_mel = mel.steps_per_second * mel.n_mels * channels * LOG_MEL_BYTES
    waveform = mel.sample_rate * min(channels, 2) * WAVEFORM_BYTES if cache.waveform else 0
    return log_mel + waveform + cache.frames.fps * JPEG_BYTES
