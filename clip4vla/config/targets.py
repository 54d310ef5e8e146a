"""Names of targets, and the part of a plan that a target needs."""

import difflib
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.layout import ROWS_DIR, all_outputs
from clip4vla.config.plan import Cell, Plan
from clip4vla.config.run import Pretrain, Run, sources_of

FIXED = {
    "all": "everything: data, runs, tables, figures, page, report, MLflow",
    "data": "ledgers, coverage, shards and manifests of every dataset that a row needs",
    "pretrain": "every pre-training",
    "tables": "all tables, figures and the page",
    "report": "Snakemake's report of the finished tables",
}
ROW = f"{ROWS_DIR}/"


def targets(plan: Plan) -> dict[str, str]:
    """Return every target of `snakemake` and `clip4vla plan`, with a line of description."""
    lines = dict(FIXED)
    for name, table in plan.tables.items():
        lines[name] = table.title
    for name, table in plan.tables.items():
        lines |= {f"{ROW}{name}/{row.row}": row.label for row in table.rows}
    return lines


def narrowed(plan: Plan, target: str) -> Plan:
    """Return the part of a plan that a target or run key needs. UserError for an unknown one."""
    table, _, row = target.removeprefix(ROW).partition("/")
    if target in ("all", "tables", "report"):
        return plan
    if target == "data":
        return replace(plan, runs={}, cells=[])
    if target == "pretrain":
        return _with_runs(plan, set(plan.stage("pretrain")), [])
    if target in plan.runs:
        return _with_runs(plan, {target}, [c for c in plan.cells if c.run_key == target])
    rows = [item.row for item in plan.tables[table].rows] if table in plan.tables else []
    if not rows or (row and row not in rows):
        raise _unknown(plan, target)
    cells = [c for c in plan.cells if c.table == table and row in ("", c.row)]
    without_data = {
        place: reason
        for place, reason in plan.without_data.items()
        if place[0] == table and row in ("", place[1])
    }
    some = _with_runs(plan, {cell.run_key for cell in cells}, cells)
    return replace(some, tables={table: plan.tables[table]}, without_data=without_data)


def check_names(
    plan: Plan,
    targets: Iterable[str],
    rules: Iterable[str],
    known: list[str],
    is_made: Callable[[str], bool],
) -> None:
    """Check the targets and rules given to Snakemake. UserError for the first unknown one.

    targets: names of rules or files; rules: names of rules; known: all rules of the workflow;
    is_made: returns whether a rule makes a file.
    """
    for name in sorted(set(targets) - {*known}):
        file = os.path.relpath(name)
        if file.startswith(ROW):
            narrowed(plan, file)  # the rule of rows would make an empty file for any name
        elif not is_made(file) and not os.path.exists(file):
            raise _unknown(plan, name, known)
    for name in sorted(set(rules) - {*known}):
        raise UserError(f"no rule {name!r} in the workflow{did_you_mean(name, known)}")


def _unknown(plan: Plan, target: str, others: Iterable[str] = ()) -> UserError:
    """Return the error for an unknown target. others: valid names beside those of the plan."""
    known = [*targets(plan), *plan.runs, *others]
    if "/" in target.removeprefix(ROW):
        known += all_outputs(plan)
    short = {name.removeprefix(ROW): name for name in known}
    near = difflib.get_close_matches(target.removeprefix(ROW), short, n=3)
    hint = f"; did you mean {', '.join(short[name] for name in near)}?" if near else "."
    return UserError(
        f"no target {target!r} in this config{hint} Fix: choose one of `clip4vla targets`"
    )


def part_of(plan: Plan, keys: Collection[str | None], versions: Collection[str | None]) -> Plan:
    """Return the plan with these runs and dataset versions only, without their dependencies."""
    return replace(
        plan,
        runs={key: run for key, run in plan.runs.items() if key in keys},
        versions={v: name for v, name in plan.versions.items() if v in versions},
        listed={v: name for v, name in plan.listed.items() if v in versions},
    )


def _with_runs(plan: Plan, keys: set[str], cells: list[Cell]) -> Plan:
    """Return the plan with only these runs, their ancestors, and the data that they read."""
    todo = list(keys)
    kept: dict[str, Run] = {}
    while todo:
        key = todo.pop()
        kept[key] = plan.runs[key]
        todo += plan.parents(key)
    pairs = {
        (source.dataset, source.cache_id) for run in kept.values() for source in sources_of(run)
    }
    versions = {version for version, _ in pairs}
    held = [run.held_out for run in kept.values() if isinstance(run, Pretrain)]
    listed = {item.dataset for some in held for item in some}
    names = plan.names()
    return replace(
        plan,
        runs=kept,
        cells=cells,
        caches={pair: cache for pair, cache in plan.caches.items() if pair in pairs},
        versions={v: name for v, name in plan.versions.items() if v in versions},
        listed={v: name for v, name in plan.listed.items() if v in listed},
        whole_names={key: names[key] for key in kept},
    )
