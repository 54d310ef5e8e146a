"""Names of targets of `snakemake` and `clip4vla plan`. They are known before a row is expanded."""

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.layout import ROWS_DIR, all_outputs
from clip4vla.config.table import Table

if TYPE_CHECKING:
    from clip4vla.config.plan import Plan

FIXED = {
    "all": "everything: data, runs, tables, figures, page, report, MLflow",
    "data": "ledgers, coverage, shards and manifests of every dataset that a row needs",
    "pretrain": "every pre-training",
    "tables": "all tables, figures and the page",
    "report": "Snakemake's report of the finished tables",
}
ROW = f"{ROWS_DIR}/"


def targets(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return every target of `snakemake` and `clip4vla plan`, with a line of description."""
    lines = dict(FIXED)
    for name, table in tables.items():
        lines[name] = table.title
    for name, table in tables.items():
        lines |= {f"{ROW}{name}/{row.row}": row.label for row in table.rows}
    return lines


def row_of(target: str) -> tuple[str, str]:
    """Return (table, row) of a target; row "": the whole table."""
    table, _, row = target.removeprefix(ROW).partition("/")
    return table, row


def check_target(
    tables: Mapping[str, Table], target: str, run_keys: Collection[str] | None = None
) -> None:
    """Raise UserError for an unknown target.

    run_keys: None while no row is expanded; then a text that may be a run key passes.
    """
    table, row = row_of(target)
    rows = ["", *(item.row for item in tables[table].rows)] if table in tables else []
    may_be_key = run_keys is None and re.fullmatch("[0-9a-f]+", target)
    if not (target in FIXED or row in rows or may_be_key or target in (run_keys or ())):
        raise _unknown(target, [*targets(tables), *(run_keys or ())])


def check_names(
    plan: "Plan",
    asked: Iterable[str],
    rules: Iterable[str],
    known: list[str],
    is_made: Callable[[str], bool],
) -> None:
    """Check the targets and rules given to Snakemake. UserError for the first unknown one.

    asked: names of rules or files; rules: names of rules; known: all rules of the workflow;
    is_made: returns whether a rule makes a file.
    """
    for name in sorted(set(asked) - {*known}):
        file = os.path.relpath(name)
        if file.startswith(ROW):
            check_target(plan.tables, file, ())  # the rule of rows makes an empty file of any name
        elif not is_made(file) and not os.path.exists(file):
            outputs = all_outputs(plan) if "/" in name else ()
            raise _unknown(name, [*targets(plan.tables), *plan.runs, *known, *outputs])
    for name in sorted(set(rules) - {*known}):
        raise UserError(f"no rule {name!r} in the workflow{did_you_mean(name, known)}")


def _unknown(target: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown target."""
    short = {name.removeprefix(ROW): name for name in known}
    near = difflib.get_close_matches(target.removeprefix(ROW), short, n=3)
    hint = f"; did you mean {', '.join(short[name] for name in near)}?" if near else "."
    return UserError(
        f"no target {target!r} in this config{hint} Fix: choose one of `clip4vla targets`"
    )
