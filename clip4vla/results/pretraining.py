"""Cost of pre-training in a table, the paper's and ours.

Tables with `costs: true` show it. It gets no verdict, because devices differ.
"""

import re
from typing import NamedTuple

from clip4vla.config.metrics import COSTS
from clip4vla.results.compare import NO_REFERENCE, NOT_RUN, PAPER_ONLY, Entry
from clip4vla.results.cost import Cost
from clip4vla.results.paper import Published
from clip4vla.results.sheet import Sheet, SheetRow
from clip4vla.results.text import number

DATASET = "pretraining"  # of the costs in paper.tsv
DAYS = "device_days"  # ours; the paper's name their device, as v100_days
COLUMNS = {metric.name: metric.label for metric in COSTS}


class _Ours(NamedTuple):
    """Our cost and its verdict, for an entry."""

    verdict: str = PAPER_ONLY
    reason: str = ""
    value: float | None = None


def cost_entries(sheet: Sheet, paper: list[Published], costs: dict[str, Cost]) -> list[Entry]:
    """Return the costs of a table that shows them: the paper's, and ours once runs have ended."""
    printed: dict[str, dict[str, Published]] = {}
    for item in paper if sheet.costs else ():
        if item.table in sheet.paper_tables and item.dataset == DATASET:
            printed.setdefault(item.row, {})[item.metric] = item
    ours = {row.row: row for row in sheet.rows if sheet.costs and row.pretrainings}
    labels = {row.row: row.label for row in sheet.rows}
    entries = []
    for row in dict.fromkeys([*printed, *ours]):
        theirs, mine = printed.get(row, {}), _ours(ours[row], costs) if row in ours else {}
        for metric in dict.fromkeys([*theirs, *mine]):
            own = mine.get(metric, _Ours())
            entry = Entry(
                table=sheet.table,
                row=row,
                label=labels.get(row) or theirs[metric].label,
                kind="ours" if row in labels else "paper",
                dataset=DATASET,
                gallery="",
                column=metric,
                metric=metric,
                paper=theirs[metric].value if metric in theirs else None,
                ours=own.value,
                verdict=own.verdict,
                reason=own.reason,
            )
            entries.append(entry)
    return entries


def cost_cells(entries: list[Entry], source: str) -> tuple[str, ...]:
    """Return the cells of one line (`paper`, `ours` or other) of one row's costs."""
    if source == "paper":
        cells = {e.metric: number(e.paper, e.metric) for e in entries if e.paper is not None}
        cells[DAYS] = _printed_days(entries)
    elif source == "ours":
        cells = {e.metric: _measured(e) for e in entries if e.metric in COLUMNS}
    else:
        cells = {}
    return tuple(cells.get(metric) or NO_REFERENCE for metric in COLUMNS)


def _ours(row: SheetRow, costs: dict[str, Cost]) -> dict[str, _Ours]:
    """Return our costs by metric: days summed over a row's pre-trainings, the largest of others."""
    ended = [costs[key] for key in row.pretrainings if key in costs]
    if len(ended) < len(row.pretrainings):
        return dict.fromkeys(COLUMNS, _Ours(NOT_RUN, "its runs have not ended"))
    values = {
        DAYS: sum(cost.device_hours for cost in ended) / 24,
        "batch_size": max(cost.batch_size for cost in ended),
        "trained_params_M": max(cost.trained_parameters for cost in ended) / 1e6,
    }
    devices = ", ".join(sorted({device for cost in ended for device in cost.hardware}))
    return {
        metric: _Ours(NO_REFERENCE, f"on {devices}" if metric == DAYS else "", value)
        for metric, value in values.items()
    }


def _measured(entry: Entry) -> str:
    if entry.ours is None:
        return NOT_RUN if entry.verdict == NOT_RUN else NO_REFERENCE
    text = number(entry.ours, entry.metric)
    return f"{text} {entry.reason}" if entry.metric == DAYS else text


def _printed_days(entries: list[Entry]) -> str:
    """Return `48 V100`, or `512–768 TPU`; the metric's name has the device."""
    days: dict[str, list[str]] = {}
    for entry in entries:
        named = re.fullmatch(r"([a-z0-9]+)_days(_min|_max)?", entry.metric)
        if named and entry.paper is not None:
            value = number(entry.paper, entry.metric)
            days.setdefault(named[1].upper(), []).append(value)
    return "; ".join(f"{'–'.join(values)} {device}" for device, values in days.items())
