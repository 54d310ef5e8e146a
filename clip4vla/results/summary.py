"""The top of the page: the main number of each table and dataset, and what was run."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clip4vla.config.metrics import metric_of
from clip4vla.results.cells import Cell, Link, cell_of
from clip4vla.results.compare import Entry
from clip4vla.results.cost import Cost, spent
from clip4vla.results.sheet import Sheet
from clip4vla.tracking.attempts import read_attempts

SHORT = 10  # letters of a commit


@dataclass(frozen=True)
class Main:
    """The main number of a table on a dataset: its row and its cell."""

    column: str
    row: str
    why: str  # of several rows
    cell: Cell


def main_numbers(sheet: Sheet, entries: Iterable[Entry], link: Link) -> list[Main]:
    """Return, for the first metric of each dataset, the row that the paper's best number is of.

    Where the paper has no number it is the best row of ours, and the first one until a row has run.
    """
    found = []
    ours = [entry for entry in entries if entry.kind == "ours"]
    for column in {c.dataset: c for c in reversed(sheet.columns)}.values():
        rows: dict[str, Entry] = {}
        for entry in ours:
            if (entry.dataset, entry.column) == (column.dataset, column.metric):
                rows.setdefault(entry.row, entry)
        pick = min if metric_of(column.metric).lower_is_better else max
        theirs = [(e.paper, e) for e in rows.values() if e.paper is not None]
        mine = [(e.ours, e) for e in rows.values() if e.ours is not None]
        why = "the paper's best row" if theirs else "our best row" if mine else "the first row"
        ranked = theirs or mine or [(0.0, e) for e in list(rows.values())[:1]]
        if ranked:
            _, best = pick(ranked, key=lambda item: item[0])
            cell = cell_of(best, link(best.row, best.dataset))
            place = f"{sheet.dataset_label(column.dataset)} {column.label}"
            found.append(Main(place, best.label, why if len(rows) > 1 else "", cell))
    return found[::-1]


def facts(
    tidy: pd.DataFrame, states: Iterable[Path], costs: Mapping[str, Cost], planned: int
) -> dict[str, str]:
    """Return when, where and by which code the runs were made, on which data, and their cost.

    states: folders of the runs' attempts; planned: number of trainings. Facts that are not known,
    as of results that were copied without the runs' state, are left out.
    """
    attempts = [row for state in states for row in read_attempts(state)]
    known = {
        "Date": _dates(attempts),
        "Commit": _commits(attempts),
        "Data": _data(tidy),
        "Device": ", ".join(
            sorted({device for cost in costs.values() for device in cost.hardware})
        ),
        "Cost": f"{spent(costs.values())}, {len(costs)} of {planned} trainings" if costs else "",
    }
    return {name: text for name, text in known.items() if text}


def _dates(attempts: Sequence[Mapping]) -> str:
    """Return the first and the last day of attempts, in UTC."""
    if not attempts:
        return ""
    began = min(row["started_ms"] / 1000 for row in attempts)
    ended = max(row["started_ms"] / 1000 + row["seconds"] for row in attempts)
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) for at in (began, ended))
    return f"{first} to {last[11:] if first[:10] == last[:10] else last} UTC"


def _commits(attempts: Sequence[Mapping]) -> str:
    """Return the commits that the code of attempts was of."""
    changed: dict[str, bool] = {}
    for row in attempts:
        if commit := row.get("git_sha"):
            changed[commit] = changed.get(commit, False) or bool(row.get("git_dirty"))
    texts = (
        f"{sha[:SHORT]}{', with local changes' if dirty else ''}" for sha, dirty in changed.items()
    )
    return "; ".join(texts)


def _data(tidy: pd.DataFrame) -> str:
    """Return the dataset versions that were scored, with the hash of their manifests."""
    versions = (
        tidy[["data_version", "manifest_sha256"]].drop_duplicates().sort_values("data_version")
    )
    return ", ".join(
        f"{line.data_version} ({line.manifest_sha256[:12]})" for line in versions.itertuples()
    )
