"""The part of a plan that a target needs."""

from collections.abc import Collection
from dataclasses import replace

from clip4vla.config.plan import Cell, Plan
from clip4vla.config.run import Pretrain, Run, sources_of
from clip4vla.config.targets import check_target, row_of


def narrowed(plan: Plan, target: str) -> Plan:
    """Return the part of a plan that a target or run key needs. UserError for an unknown one."""
    check_target(plan.tables, target, plan.runs)
    if target in ("all", "tables", "report"):
        return plan
    if target == "data":
        return replace(plan, runs={}, cells=[])
    if target == "pretrain":
        return _with_runs(plan, set(plan.stage("pretrain")), [])
    if target in plan.runs:
        return _with_runs(plan, {target}, [c for c in plan.cells if c.run_key == target])
    table, row = row_of(target)
    cells = [c for c in plan.cells if c.table == table and row in ("", c.row)]
    without_data = {
        place: reason
        for place, reason in plan.without_data.items()
        if place[0] == table and row in ("", place[1])
    }
    some = _with_runs(plan, {cell.run_key for cell in cells}, cells)
    return replace(some, tables={table: plan.tables[table]}, without_data=without_data)


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
