"""The end of a dry run: what would be done and why, by stage and by table."""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from clip4vla.common.console import console, table
from clip4vla.common.files import canonical_json
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.targets import targets

REASONS = {  # Snakemake's reasons, the first that holds is shown
    "forced": "forced",
    "output files have to be generated": "no output yet",
    "incomplete output files": "interrupted",
    "updated input files": "newer input",
    "input files updated by another job": "input is made again",
    "set of input files has changed since last execution": "other inputs",
    "params have changed since last execution": "other params",
    "code has changed since last execution": "other command",
}


@dataclass(frozen=True)
class Job:
    """A job that would run. reasons: Snakemake's names of them."""

    rule: str
    run_key: str | None
    reasons: tuple[str, ...]

    @property
    def why(self) -> str:
        """Return the first reason."""
        shown = (text for name, text in REASONS.items() if name in self.reasons)
        return next(shown, ", ".join(self.reasons) or "asked for")


def print_summary(
    plan: Plan, jobs: list[Job], *, order: list[str], command: str, listed: bool = True
) -> None:
    """Print the jobs by stage and the runs by table.

    order: of rules; command: for their cost; listed: whether Snakemake has listed all jobs before.
    """
    out = console()
    out.print(_by_stage(jobs, order))
    if by_table := _by_table(plan, jobs):
        out.print(by_table)
        out.print("A run that several tables need counts in each of them.")
    out.print(f"GPU hours, disk, downloads and missing files:  {command}")
    if listed:
        out.print("This summary alone, without the list of jobs:  add --quiet at the end")


def _by_stage(jobs: list[Job], order: list[str]) -> Table:
    rows = table("stage", "jobs", "why", title="What would be done")
    for rule in order:
        if some := [job for job in jobs if job.rule == rule]:
            rows.add_row(rule, f"{len(some):,}", _why(some))
    rows.add_row("total", f"{len(jobs):,}", "")
    return rows


def _by_table(plan: Plan, jobs: list[Job]) -> Table | None:
    """Return the runs to do of every table; None without any."""
    todo = {job.run_key: job for job in jobs if job.run_key in plan.runs}
    needed: dict[str, dict[str, Job]] = {}
    for key, cells in plan.rows().items():
        for cell in cells:
            if key in todo:
                needed.setdefault(cell.table, {})[key] = todo[key]
    rows = table("table", *layout.RUN_FILES, "why", title="Runs that would be made")
    for name in plan.tables:
        if runs := needed.get(name):
            counts = Counter[str](plan.runs[key].stage for key in runs)
            numbers = [str(counts[stage] or "") for stage in layout.RUN_FILES]
            rows.add_row(name, *numbers, _why(runs.values()))
    return rows if needed else None


def _why(jobs: Iterable[Job]) -> str:
    counts = Counter(job.why for job in jobs)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{number:,} {why}" for why, number in counts.most_common())


def plan_command(
    plan: Plan, asked: Iterable[str], files: list[Path], values: dict[str, Any], folder: Path
) -> str:
    """Return a command to paste that prices the same.

    asked: the targets of Snakemake; files and values: what lies above the base config; folder: of
    the outputs, which need not be that of the shell.
    """
    asked = list(asked)
    words = ["clip4vla", "plan"]
    words += asked if len(asked) == 1 and asked[0] in targets(plan.tables) else []
    for path in files:
        inside = path.is_relative_to(folder)
        words += ["-c", str(path.relative_to(folder) if inside else path)]
    if values:
        words += ["--set", canonical_json(values)]
    there = "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    return there + shlex.join(words)
