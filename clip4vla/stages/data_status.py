"""Progress of datasets, and marking of clips to request again. Reads whatever exists."""

import time
from collections.abc import Collection
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD as HEAD_ONLY
from rich.console import Console
from rich.table import Table

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.common.files import sole_owner, whole_file, write_text
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.media.fetch import FETCH_COLUMNS, server_of
from clip4vla.media.journal import Journal
from clip4vla.media.ledger import IDS, MISSING_COLUMNS, missing, usable
from clip4vla.media.local import has_changed
from clip4vla.media.overview import OUTCOMES, by_split, by_status, so_far
from clip4vla.media.probe import PROBE_COLUMNS
from clip4vla.media.status import FetchStatus
from clip4vla.results.spreadsheet import spreadsheet_csv
from clip4vla.stages.data import is_frozen, read_table


def status(plan: Plan, dataset: str | None, missing_file: Path | None, console: Console) -> None:
    """Print tables by split and by status, write status.png, and list missing clips in a file.

    `dataset` is a name or a version; None: all of the config's targets.
    """
    lists = []
    for version in versions_of(plan, dataset):
        rows = _show(plan, version, console)
        if rows is not None:
            lists.append(_missing_so_far(rows))
    for version in _others_here(plan) if dataset is None else ():
        console.print(
            f"{version}: not part of any target of this config. Fix: pass its config with -c\n",
            soft_wrap=True,
        )
    if missing_file is not None:
        rows = _joined(lists, dict.fromkeys(MISSING_COLUMNS, "string"))
        write_text(missing_file, spreadsheet_csv(rows, "\t", ids=IDS))
        console.print(f"{len(rows)} clips are listed in {missing_file}")


def _others_here(plan: Plan) -> list[str]:
    """Return dataset versions that were planned in this folder for other targets or configs."""
    planned = Path(layout.data_dir("x")).parent.glob(f"*/{layout.LISTS[0]}")
    return sorted(
        {path.parent.name for path in planned} - plan.versions.keys() - plan.listed.keys()
    )


def versions_of(plan: Plan, dataset: str | None) -> list[str]:
    """Return dataset versions by name or version; all for None. UserError for an unknown one."""
    versions = [v for v, name in sorted(plan.versions.items()) if dataset in (None, v, name)]
    if not versions:
        hint = did_you_mean(str(dataset), sorted(set(plan.versions.values())))
        raise UserError(f"no dataset {dataset!r} in the targets of this config{hint}")
    return versions


def _show(plan: Plan, version: str, console: Console) -> pd.DataFrame | None:
    from clip4vla.results.figures import encoded
    from clip4vla.results.figures_status import status_figure

    name, dataset = plan.dataset_of(version)
    folder = Path(layout.data_dir(version))
    if not (folder / "plan.parquet").is_file() or not (folder / "splits.parquet").is_file():
        command = layout.command_for(f"{folder}/plan.parquet")
        console.print(f"{version}: not planned yet: {command}\n", soft_wrap=True)
        return None
    rows, stages = _rows(version, dataset.shards)
    expected = {split: declared.clips for split, declared in dataset.expected.items()}
    splits = by_split(rows, read_table(folder / "splits.parquet"), expected)
    statuses = by_status(rows, dataset.source, dataset.cut_longer)
    console.print(f"{version}: {stages}\n")
    console.print(_split_table(splits))
    if statuses:
        console.print()
        console.print(_status_table(statuses))
    with whole_file(folder / "status.png") as temporary:
        figure = status_figure(f"{version}: {stages}", splits, statuses)
        temporary.write_bytes(encoded(figure, "png"))
    console.print(f"\ndrawn in {folder / 'status.png'}\n")
    return rows


def _rows(version: str, shards: int) -> tuple[pd.DataFrame, str]:
    """Return the ledger so far, and its progress in words."""
    fetched: list[pd.DataFrame] = []
    probed: list[pd.DataFrame] = []
    for shard in range(shards):
        folder = Path(layout.shard_dir(version, shard))
        if not (folder / "fetch.parquet").is_file():
            continue  # its clips will be requested again, so its probe is out of date
        for table, tables in (("fetch", fetched), ("probe", probed)):
            if (folder / f"{table}.parquet").is_file():
                tables.append(read_table(folder / f"{table}.parquet"))
    stages = f"{len(fetched)} of {shards} shards fetched, {len(probed)} probed"
    if is_frozen(version):
        stages += ", frozen"
    elif Path(layout.data_dir(version), "ledger.parquet").is_file():
        stages += ", in the ledger"
    rows = so_far(
        read_table(f"{layout.data_dir(version)}/plan.parquet"),
        _joined([*_under_way(version, shards), *fetched], FETCH_COLUMNS),
        _joined(probed, PROBE_COLUMNS),
    )
    return rows, stages


def _under_way(version: str, shards: int) -> list[pd.DataFrame]:
    """Return the journals of shards whose table is not written yet."""
    tables = []
    for shard in range(shards):
        media = Path(layout.media_dir(version, shard))
        if Path(layout.shard_dir(version, shard), "fetch.parquet").is_file():
            continue
        if (media / "journal.jsonl").is_file():
            tables.append(pd.DataFrame(Journal(media).attempts().values()))
    return [table.reindex(columns=list(FETCH_COLUMNS)) for table in tables if len(table)]


def _joined(tables: list[pd.DataFrame], columns: dict[str, str]) -> pd.DataFrame:
    return pd.concat(tables) if tables else pd.DataFrame(columns=list(columns)).astype(columns)


def _missing_so_far(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the missing clips among those that are done: refused, or probed."""
    refused = rows["fetch"].notna() & (rows["fetch"] != FetchStatus.OK)
    done = rows[refused | rows["video"].notna()]
    unknown = {"video": "not_fetched", "audio": "not_fetched"}
    unknown |= {"detail": "", "path": "", "left_out": ""}
    return missing(done.astype(dict.fromkeys(unknown, object)).fillna(unknown))


def _split_table(splits: pd.DataFrame) -> Table:
    columns = ("split", "official", "planned", *OUTCOMES, "usable")
    table = _table(*(name.replace(" ", "\n") for name in columns), numbers=columns[1:])
    for row in splits.to_dict("records"):
        official = None if pd.isna(row["expected"]) else int(row["expected"])
        usable = row["with sound"] + row["silent"]
        of = max(official or 0, row["planned"])
        table.add_row(
            row["split"],
            "?" if official is None else f"{official:,}",
            f"{row['planned']:,}",
            *(f"{row[name]:,}" if row[name] else "-" for name in OUTCOMES),
            f"{usable / of:.1%}" if of else "-",
        )
    return table


def _status_table(statuses: list[dict]) -> Table:
    table = _table("of", "status", "clips", "advice", numbers=("clips",))
    for row in statuses:
        table.add_row(row["part"], str(row["status"]), f"{row['clips']:,}", row["advice"])
    return table


def _table(*headings: str, numbers: Collection[str]) -> Table:
    """Return a table without vertical lines, whose headings have a line for each word.

    So ten columns fit on 80 characters, and other programs can cut out cells.
    """
    table = Table(box=HEAD_ONLY, show_edge=False, pad_edge=False, padding=0)
    for heading in headings:
        right = heading.replace("\n", " ") in numbers
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    return table


def retry(plan: Plan, dataset: str | None, at_once: bool = False) -> list[str]:
    """Delete the tables of shards with clips to request again, and return one line per version.

    The ledger is deleted too, so that Snakemake runs these shards again; only their unsettled clips
    are then requested. Local files that are unusable or have changed are checked again. Clips whose
    pause is not over wait, unless `at_once` ends all pauses, after setting cookies for example. A
    frozen version is left alone because runs may cite it: UserError if it was named, else a line.
    """
    lines = []
    for version in versions_of(plan, dataset):
        try:
            lines.append(_retry(plan, version, at_once))
        except Frozen as error:
            if dataset is not None:
                raise
            lines.append(str(error))
    return lines


class Frozen(UserError):
    """A frozen version, which cannot change, has clips that could be requested again."""


def _retry(plan: Plan, version: str, at_once: bool) -> str:
    name, dataset = plan.dataset_of(version)
    if at_once and dataset.source != "local" and not is_frozen(version):
        server_of(dataset, layout.NETWORK_DIR).forgive()
        for shard in range(dataset.shards):
            media = Path(layout.media_dir(version, shard))
            if (media / "journal.jsonl").is_file():
                with sole_owner(media):
                    Journal(media).end_pauses()
    if not Path(layout.data_dir(version), "plan.parquet").is_file():
        return f"{version}: not planned yet: {layout.command_for('data')}"
    clips, shards, waiting, soonest = 0, 0, 0, float("inf")
    for shard in range(dataset.shards):
        table = Path(layout.shard_dir(version, shard), "fetch.parquet")
        if not table.is_file():
            continue
        if dataset.source == "local":  # checking a folder is cheap and needs no pause
            due, later, first = _due_local(table, version, dataset.media), 0, float("inf")
        else:
            due, later, first = _due(read_table(table), version, shard)
        waiting, soonest = waiting + later, min(soonest, first)
        if not due:
            continue
        if is_frozen(version):
            raise Frozen(
                f"{version}: frozen, and runs may cite it. Fix: raise datasets.{name}.fetch_pass "
                f"to {dataset.fetch_pass + 1} for a new version that keeps the fetched files"
            )
        Path(layout.data_dir(version), "ledger.parquet").unlink(missing_ok=True)
        with sole_owner(layout.media_dir(version, shard)):
            table.unlink()
            table.with_name("probe.parquet").unlink(missing_ok=True)
        clips, shards = clips + due, shards + 1
    line = f"{version}: {clips} clips in {shards} shards will be asked for by the next snakemake"
    if waiting:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(soonest))
        line += f"; {waiting} must wait, the first until {when}"
    return line


def _due_local(table: Path, version: str, media: Path | None) -> int:
    """Count the clips of a shard that are unusable or whose file has changed."""
    rows = read_table(table)
    planned = read_table(f"{layout.data_dir(version)}/plan.parquet")[["clip_id", "file"]]
    rows = rows.merge(planned, on="clip_id")
    again = rows["fetch"] != FetchStatus.OK
    probe = table.with_name("probe.parquet")
    if probe.is_file():
        rows = rows.merge(read_table(probe), on="clip_id", how="left")
        again |= ~usable(rows.fillna({"video": "", "audio": ""}))
    if media is not None:
        folder, since = table.with_name("media"), table.stat().st_mtime
        changed = [has_changed(row, media, folder, since) for row in rows.itertuples()]
        again |= pd.Series(changed, index=rows.index, dtype="bool")
    return int(again.sum())


def _due(fetched: pd.DataFrame, version: str, shard: int) -> tuple[int, int, float]:
    """Count refused clips to request again and those that must wait; the time of the first."""
    refused = fetched[fetched["fetch"] != FetchStatus.OK]
    attempts = Journal(layout.media_dir(version, shard)).attempts()
    open_ = [row.clip_id for row in refused.itertuples() if FetchStatus(row.fetch).retry != "never"]
    again = [attempts[clip_id]["again"] for clip_id in open_ if clip_id in attempts]
    waits = [moment for moment in again if moment > time.time()]
    return len(open_) - len(waits), len(waits), min(waits, default=float("inf"))
