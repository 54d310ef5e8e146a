"""The plan of commands and the workflow: made from the config and checked by other rooms."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.plan import Plan
from clip4vla.config.planner import make_plan
from clip4vla.config.table import NO_PAPER, tables_in
from clip4vla.config.yaml import read_yaml
from clip4vla.datasets.splits import unknown_splits
from clip4vla.results.paper import Published, read_paper

PRINTED = (  # tables of the shipped numbers: the paper's own, and those with numbers of others
    *(f"table{number}" for number in range(1, 7)),
    "events",
    "audio_visual",
    "coavt",
)


def checked_plan(files: list[Path], overrides: dict[str, Any] | None = None) -> Plan:
    """Make a plan and check the names that the config room does not know.

    These are splits, architectures, and names in paper.tsv. Raises UserError with one line per
    mistake.
    """
    plan = make_plan(files, overrides)
    problems = [*unknown_splits(plan), *_unknown_architectures(plan)]
    problems += _unfit_names(plan, read_paper(plan.config.paper))
    if problems:
        raise UserError(*problems)
    return plan


def _unknown_architectures(plan: Plan) -> list[str]:
    """Return a line for each architecture that its family does not know."""
    lines: dict[str, None] = {}
    for model in {run.model for run in plan.runs.values()}:
        where = plan.places.get((model.architecture,))
        try:
            model.check_architecture()
        except UserError as error:
            lines[f"{where}: {str(error).removeprefix('model.architecture: ')}"] = None
    return sorted(lines)


def _unfit_names(plan: Plan, numbers: list[Published]) -> list[str]:
    """Return a line for each table and dataset that the published numbers do not have."""
    path, lines = plan.config.paper, []
    printed: dict[str, set[str]] = {}
    for number in numbers:
        printed.setdefault(number.table, set()).add(number.dataset)
    for name, table in plan.tables.items():
        document, wanted = plan.files[name], _listed(table.paper_table) or [name]
        if wanted == [NO_PAPER]:
            continue
        unknown = [item for item in _listed(table.paper_table) if item not in printed]
        for item in unknown:
            place, hint = document.place(("paper_table",)), did_you_mean(item, printed)
            lines.append(
                f"{place}: paper_table: {path} has no table {item!r} ({NO_PAPER}: compare with "
                f"nothing){hint}"
            )
        if unknown:
            continue
        for index, column in enumerate(table.columns):
            theirs = column.paper_dataset
            known = sorted({dataset for item in wanted for dataset in printed.get(item, ())})
            if theirs is not None and theirs not in known:
                place = document.place(("columns", index, "paper_dataset"))
                problem = f"{path} has no dataset {theirs!r} in table {', '.join(wanted)!r}"
                lines.append(f"{place}: paper_dataset: {problem}{did_you_mean(theirs, known)}")
    return lines + _of_no_table(plan, numbers)


def _of_no_table(plan: Plan, numbers: list[Published]) -> list[str]:
    """Return a line for each table of the numbers that is neither shipped nor one of ours."""
    first = {number.table: number for number in reversed(numbers)}
    files = tables_in(Path(plan.config.experiments))
    known = [*PRINTED, *(file.stem for file in files)]
    if not first.keys() <= {*known}:
        known += [
            name for file in files for name in _listed(read_yaml(file).value.get("paper_table"))
        ]
    return [
        f"{plan.config.paper}:{number.line}: no table has the name {name!r}, and none has it as "
        f"paper_table{did_you_mean(name, known)}"
        for name, number in first.items()
        if name not in known
    ]


def _listed(named: Any) -> list[str]:
    """Return the names of a key that has one, several or none."""
    return [*named] if isinstance(named, list) else [named] if named else []
