"""The commands `clip4vla runs ...`: runs of this working folder."""

import json
import sys
import time
from typing import Annotated

import typer

from clip4vla.cli.options import ConfigSource, with_options
from clip4vla.common.errors import UserError

runs = typer.Typer(no_args_is_help=True, help="Runs of this working folder.")
Key = Annotated[str, typer.Argument(help="Run key, 12 hex digits.")]
Evaluation = Annotated[str, typer.Argument(help="Run key of an evaluation, or its folder.")]


@runs.command("ls")
@with_options
def runs_ls(
    source: ConfigSource,
    target: Annotated[str, typer.Argument(help="A table, TABLE/ROW, a run key.")] = "all",
) -> None:
    """List the runs of a target with state, headline number and the row that needs them.

    Without a target, runs on disk that no row of the config needs are listed last.
    """
    plan = source.part(target)  # an unknown target is refused before anything else is loaded
    from clip4vla.common.console import console, table
    from clip4vla.runs.listing import list_runs
    from clip4vla.runs.removal import others_here

    listed = [*list_runs(plan), *(others_here(plan) if target == "all" else ())]
    rows = table("run key", "stage", "state", "number", "first row that needs it")
    for run in listed:
        rows.add_row(run.key, run.stage, run.state, run.number, run.name)
    why = f"; `clip4vla plan {target}` says why" if plan.without_data else ""
    console().print(rows if listed else f"no runs in {target}{why}")


@runs.command("show")
@with_options
def runs_show(source: ConfigSource, key: Key) -> None:
    """Print config, state, numbers and attempts of a finished or unfinished run as JSON."""
    from clip4vla.runs.listing import show

    typer.echo(json.dumps(show(key, source.plan), indent=2))


@runs.command("diff")
@with_options
def runs_diff(source: ConfigSource, one: Key, two: Key) -> None:
    """Print the settings that differ between two runs, and the numbers that both have."""
    from clip4vla.common.console import console, table
    from clip4vla.runs.listing import differences

    settings, numbers = differences(one, two, source.plan)
    out = console()
    rows = table("setting", one, two)
    for name, pair in settings.items():
        rows.add_row(name, *pair)
    out.print(rows if settings else "the settings are the same")
    rows = table("number", one, two, "difference")
    for name, (a, b) in numbers.items():
        rows.add_row(name, f"{a:g}", f"{b:g}", f"{b - a:+g}")
    out.print(rows if numbers else "no number that both have")


@runs.command("compare")
def runs_compare(
    first: Evaluation,
    second: Evaluation,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two evaluations by a paired test on the same clips and queries.

    Differences are second minus first, with a 95 % bootstrap interval over clips and the p-value of
    a permutation test that exchanges the runs clip by clip. Runs on different clips are refused.
    """
    from clip4vla.runs import compare as stage

    result = stage.compare(first, second)
    typer.echo(json.dumps(stage.as_json(result), indent=2) if as_json else stage.show(result))


@runs.command("gc")
@with_options
def runs_gc(
    source: ConfigSource,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them, after confirmation.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needed without a terminal.")
    ] = False,
) -> None:
    """List runs on disk that no row uses, with state and size. The workflow deletes none.

    Rows of all tables in the config's folder count, including those that are not targets and those
    whose data are disabled.
    """
    from clip4vla.common.console import console, in_bytes, table
    from clip4vla.config.planner import used_keys
    from clip4vla.runs.removal import remove, unused

    leftover = unused(used_keys(source.config_files, source.overrides))
    if not leftover:
        typer.echo("every run here is used by a row")
        return
    rows = table("run key", "stage", "state", "of", "hours", "last changed", "size")
    for run in leftover:
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        hours, size = f"{run.hours:.1f}", in_bytes(run.size)
        rows.add_row(run.key, run.stage, run.state, run.about, hours, changed, size)
    console().print(rows)
    total = f"{len(leftover)} runs that no row uses, {in_bytes(sum(run.size for run in leftover))}"
    typer.echo(total + ("" if delete else "; --delete removes them for good"))
    if not delete:
        return
    if not yes and not _at_a_terminal():
        raise UserError("runs gc --delete: not a terminal. Fix: pass --yes")
    if not yes:
        typer.confirm("Remove them for good?", abort=True)
    for run in leftover:
        remove(run.key)
        typer.echo(f"{run.key} removed")


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()
