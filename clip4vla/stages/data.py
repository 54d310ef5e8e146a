"""Stages of a dataset version: plan, fetch, probe, ledger, cache and freeze; and verify."""

from pathlib import Path

import pandas as pd

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.common.files import write_parquet, write_text
from clip4vla.common.late_packages import without_collection
from clip4vla.common.parquet import read_frame
from clip4vla.config import layout
from clip4vla.config.data import Cache, Dataset
from clip4vla.config.keys import dataset_version
from clip4vla.config.plan import Plan
from clip4vla.datasets.labels import OLDER
from clip4vla.media.coverage_file import read_coverage

TABLE_COLUMNS = {  # columns that every version of these tables has
    "plan.parquet": ("clip_id", "source_id", "file", "shard"),
    "splits.parquet": ("split", "clip_id", "captions", "labels"),
    "fetch.parquet": ("clip_id", "fetch", "path", "sha256"),
    "probe.parquet": ("clip_id", "video", "audio", "duration"),
    "ledger.parquet": ("clip_id", "shard", "fetch", "path", "video", "audio", "sha256"),
}


def plan(plan: Plan, version: str) -> None:
    """Write plan.parquet and splits.parquet; print differences from the official lists."""
    from clip4vla.common.files import write_parts
    from clip4vla.datasets.expected import differences
    from clip4vla.datasets.plan import in_frozen_form, plan_rows
    from clip4vla.datasets.splits import lacking

    name, dataset = plan.dataset_of(version)
    clips, splits, notes = plan_rows(name, dataset)
    named = splits.table(["split"])
    for line in [*notes, *differences(name, dataset, named)]:
        print(line, flush=True)
    if problems := lacking(plan, name, named["split"].unique().to_pylist(), "by its lists"):
        raise UserError(*problems)
    folder = Path(layout.data_dir(version))
    write_parts(
        folder / "splits.parquet", (in_frozen_form(part, folder) for part in splits.parts())
    )
    write_parts(folder / "plan.parquet", clips.parts())


def fetch(plan: Plan, version: str, shard: int) -> None:
    """Fetch the media of one shard; write fetch.parquet."""
    from clip4vla.media.fetch import fetch_shard

    name, dataset = plan.dataset_of(version)
    _check_shard(version, shard, dataset)
    clips = read_table(f"{layout.data_dir(version)}/plan.parquet")
    fetched = fetch_shard(
        clips[clips.shard == shard],
        dataset,
        layout.media_dir(version, shard),
        network=layout.NETWORK_DIR,
        earlier=_earlier_media(name, dataset, shard),
        frozen=is_frozen(version),
    )
    if is_frozen(version):
        _check_unchanged(fetched, name, version, shard, dataset.fetch_pass)
    write_parquet(f"{layout.shard_dir(version, shard)}/fetch.parquet", fetched)


def _check_shard(version: str, shard: int, dataset: Dataset) -> None:
    if shard >= dataset.shards:
        raise UserError(f"{version}: no shard {shard}. Fix: give 0 to {dataset.shards - 1}")


def _earlier_media(name: str, dataset: Dataset, shard: int) -> Path | None:
    """Return the media folder of the last earlier pass that fetched anything."""
    for number in range(dataset.fetch_pass - 1, 0, -1):
        before = dataset.model_copy(update={"fetch_pass": number})
        folder = Path(layout.media_dir(dataset_version(name, before), shard))
        if (folder / "journal.jsonl").is_file():
            return folder
    return None


def _check_unchanged(
    fetched: pd.DataFrame, name: str, version: str, shard: int, fetch_pass: int
) -> None:
    """Raise UserError when the clips of a frozen shard differ from its ledger."""
    path = Path(layout.data_dir(version), "ledger.parquet")
    if not path.is_file():
        return
    ledger = read_table(path)
    before = ledger[ledger.shard == shard].set_index("clip_id")[["fetch", "sha256"]]
    after = fetched.set_index("clip_id")[["fetch", "sha256"]].reindex(before.index)
    changed = before.index[(before != after).any(axis=1).to_numpy()]
    if len(changed):
        raise UserError(
            f"{version}: frozen, and runs may cite it, but {len(changed)} clips of shard {shard} "
            f"have changed (first: {changed[0]}). Fix: restore their files, or raise "
            f"datasets.{name}.fetch_pass to {fetch_pass + 1} for a new version"
        )


def is_frozen(version: str) -> bool:
    """Return whether a dataset version is frozen; runs may cite it, so it must not change."""
    return any(Path(layout.data_dir(version)).glob("cache-*/manifest.json"))


def probe(version: str, shard: int) -> None:
    """Probe the fetched files of one shard; write probe.parquet."""
    from clip4vla.media.probe import probe_shard

    folder = layout.shard_dir(version, shard)
    write_parquet(f"{folder}/probe.parquet", probe_shard(read_table(f"{folder}/fetch.parquet")))


def ledger(plan: Plan, version: str) -> None:
    """Write ledger.parquet, coverage.csv and missing.tsv; stop when coverage is too low."""
    from clip4vla.datasets.expected import compare
    from clip4vla.media import ledger as media
    from clip4vla.media.lengths import with_cuts
    from clip4vla.results.spreadsheet import spreadsheet_csv

    name, dataset = plan.dataset_of(version)
    folder = layout.data_dir(version)
    splits = read_table(f"{folder}/splits.parquet")
    shards = range(dataset.shards)
    fetched, probed = (
        pd.concat(
            [read_table(f"{layout.shard_dir(version, shard)}/{table}.parquet") for shard in shards]
        )
        for table in ("fetch", "probe")
    )
    rows = media.build_ledger(read_table(f"{folder}/plan.parquet"), fetched, probed)
    if dataset.cut_longer and dataset.media is not None:
        rows = with_cuts(rows, dataset.media)
    official = {split: declared.clips for split, declared in dataset.expected.items()}
    coverage = compare(media.coverage(rows, splits, official), dataset.expected)
    for split, remark in zip(coverage.split, coverage.remark, strict=True):
        if remark:
            print(f"{name}: split {split}: {remark} against the official counts", flush=True)
    write_text(f"{folder}/coverage.csv", coverage.to_csv(index=False, lineterminator="\n"))
    missing = media.missing(rows)
    write_text(f"{folder}/missing.tsv", spreadsheet_csv(missing, "\t", ids=media.IDS))
    media.check_coverage(rows, name, dataset.min_coverage)
    media.check_lengths(rows, name, dataset.max_longer)
    write_parquet(f"{folder}/ledger.parquet", rows)


def cache(plan: Plan, version: str, cache_id: str, shard: int) -> None:
    """Write frames and log-mel of one shard's usable clips into a tar, and its index."""
    with without_collection():
        from clip4vla.cache.shards import build_shard, rows_of

    _check_shard(version, shard, plan.dataset_of(version)[1])
    rows = rows_of(read_table(f"{layout.data_dir(version)}/ledger.parquet"), shard)
    index = Path(layout.cache_dir(version, cache_id), "shards", f"{shard}.parquet")
    settings = _settings(plan, version, cache_id)
    table = build_shard(rows, settings, index.with_suffix(".tar"))
    write_parquet(index, table)


def freeze(plan: Plan, version: str, cache_id: str) -> None:
    """Write the manifest of a cache, which runs read and tables cite, and its record."""
    from clip4vla.cache.manifest import freeze as freeze_cache
    from clip4vla.cache.manifest import stay_frozen
    from clip4vla.runs.summaries import numbers
    from clip4vla.tracking import write_record

    name, dataset = plan.dataset_of(version)
    folder, cache = layout.data_dir(version), Path(layout.cache_dir(version, cache_id))
    settings = _settings(plan, version, cache_id)
    indexes = [cache / "shards" / f"{shard}.parquet" for shard in range(dataset.shards)]
    for index in indexes:
        if not index.is_file():
            raise UserError(f"{index}: missing. Fix: {layout.remake(index)}")
    manifest = freeze_cache(
        read_table(f"{folder}/ledger.parquet"),
        read_table(f"{folder}/splits.parquet"),
        indexes,
        version,
        settings,
        cache,
    )
    stay_frozen(cache / "manifest.json")
    coverage = read_coverage(f"{folder}/coverage.csv").set_index("split").to_dict("index")
    write_record(
        cache / "record.json",
        kind="data",
        key=f"{version}/{cache_id}",
        name=f"{version}/{cache_id}",
        params={"dataset": name, "version": version, "cache": manifest["cache"]},
        tags={"data_version": version, "cache_id": cache_id, "stage": "data"},
        metrics=numbers({split: _known(counts) for split, counts in coverage.items()}),
        artifacts=[
            Path(folder, "coverage.csv"),
            Path(folder, "missing.tsv"),
            cache / "manifest.json",
        ],
    )


def _settings(plan: Plan, version: str, cache_id: str) -> Cache:
    if (version, cache_id) not in plan.caches:
        known = sorted(own for other, own in plan.caches if other == version)
        hint = did_you_mean(cache_id, known)
        raise UserError(f"{version}: no cache {cache_id!r} in this config{hint}")
    return plan.caches[version, cache_id]


def verify(plan: Plan, dataset: str | None, repair: bool, workers: int) -> bool:
    """Verify frozen versions, all or those of a dataset (a name or a version); False: damaged.

    Prints a line for every damage and, with `repair`, for every failed repair. A version that is
    not frozen yet is an error only if it was named.
    """
    caches = [
        (version, cache_id)
        for version, cache_id in sorted(plan.caches)
        if dataset in (None, version, plan.versions[version])
    ]
    if not caches:
        hint = did_you_mean(str(dataset), sorted({*plan.versions, *plan.versions.values()}))
        raise UserError(f"no dataset {dataset!r} in this config{hint}")
    intact = True
    for version, cache_id in caches:
        manifest = Path(layout.manifest(version, cache_id))
        if not manifest.is_file() and dataset is None:
            print(f"{manifest}: not frozen yet")
        else:
            intact &= _verify_one(manifest, repair, workers)
    return intact


def _verify_one(manifest: Path, repair: bool, workers: int) -> bool:
    from clip4vla.cache.repair import repair as repair_shards
    from clip4vla.cache.verify import verify

    damages = verify(manifest, workers)
    for damage in damages:
        print(damage)
    if not damages:
        print(f"{manifest}: as frozen")
        return True
    if not repair:
        print(f"{manifest}: {len(damages)} damages; --repair builds the damaged shards again")
        return False
    # The tables that this version was frozen from are in the folder above its cache.
    folder = manifest.parent.parent
    problems = repair_shards(
        manifest,
        damages,
        ledger=read_table(folder / "ledger.parquet"),
        splits=read_table(folder / "splits.parquet"),
    )
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{manifest}: repaired, the same bytes as frozen")
    return not problems


def _known(counts: dict) -> dict:
    return {name: value for name, value in counts.items() if pd.notna(value)}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of the workflow. Raises UserError when it is missing or damaged."""
    return read_frame(path, layout.remake(path), TABLE_COLUMNS.get(Path(path).name, ()), OLDER)
