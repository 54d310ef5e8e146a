"""The commands `clip4vla runs ...`: runs of this working folder."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import (
    AsJson,
    ConfigSource,
    RunOfStage,
    RunOrFolder,
    Target,
    example,
    with_options,
)
from clip4vla.common.errors import UserError
from clip4vla.config.layout import RUN_KEY

runs = typer.Typer(
    no_args_is_help=True,
    help="Runs of this working folder, by their rows or run keys.",
    epilog=example("runs ls table5"),
)


def _key_of(run: str, source: ConfigSource) -> str:
    """Return the key of a run that is named by its row; a key or a folder stays as it is."""
    is_row = not (RUN_KEY.fullmatch(run) or Path(run).is_absolute())
    return source.plan().key_of(run) if is_row else run


@runs.command("ls", epilog=example("runs ls table5"))
@with_options
def runs_ls(source: ConfigSource, target: Target = "all", as_json: AsJson = False) -> None:
    """List the runs of a target by row, with state, headline number and key.

    Without a target, runs on disk that no row of the config needs are listed last.
    """
    plan = source.part(target)  # an unknown target is refused before anything else is loaded
    from clip4vla.common.console import console, table
    from clip4vla.runs.listing import list_runs
    from clip4vla.runs.removal import others_here

    listed = [*list_runs(plan), *(others_here(plan) if target == "all" else ())]
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in listed], indent=2))
        return
    rows = table("first row that needs it", "stage", "state", "number", "run key")
    for run in listed:
        rows.add_row(run.name, run.stage, run.state, run.number, run.key)
    why = f"; `clip4vla plan {target}` says why" if plan.without_data else ""
    console().print(rows if listed else f"no runs in {target}{why}")


@runs.command("show", epilog=example("runs show table5/scratch/msrvtt/s0"))
@with_options
def runs_show(source: ConfigSource, run: RunOfStage) -> None:
    """Print config, state, numbers and attempts of a finished or unfinished run as JSON."""
    from clip4vla.runs.listing import show

    typer.echo(json.dumps(show(_key_of(run, source), source.plan), indent=2))


@runs.command("diff", epilog=example("runs diff table5/scratch/msrvtt/s0 table5/inter/msrvtt/s0"))
@with_options
def runs_diff(
    source: ConfigSource, one: RunOrFolder, two: RunOrFolder, as_json: AsJson = False
) -> None:
    """Print the settings that differ between two runs, and the numbers that both have."""
    from clip4vla.common.console import console, table
    from clip4vla.runs.listing import differences

    first, second = _key_of(one, source), _key_of(two, source)
    settings, numbers = differences(first, second, source.plan)
    if as_json:
        typer.echo(
            json.dumps(
                {"runs": [first, second], "settings": settings, "numbers": numbers}, indent=2
            )
        )
        return
    out = console()
    rows = table("setting", one, two)
    for name, pair in settings.items():
        rows.add_row(name, *pair)
    out.print(rows if settings else "the settings are the same")
    rows = table("number", one, two, "difference")
    for name, (a, b) in numbers.items():
        rows.add_row(name, f"{a:g}", f"{b:g}", f"{b - a:+g}")
    out.print(rows if numbers else "no number that both have")


@runs.command("compare", epilog=example("runs compare table5/scratch/msrvtt/s0 459810c9f189"))
@with_options
def runs_compare(
    source: ConfigSource, first: RunOrFolder, second: RunOrFolder, as_json: AsJson = False
) -> None:
    """Compare two evaluations by a paired test on the same clips and queries.

    Differences are second minus first, with a 95 % bootstrap interval over clips and the p-value of
    a permutation test that exchanges the runs clip by clip. Runs on different clips are refused.
    """
    from clip4vla.runs import compare as stage

    result = stage.compare(_key_of(first, source), _key_of(second, source))
    typer.echo(json.dumps(stage.as_json(result), indent=2) if as_json else stage.show(result))


@runs.command("gc", epilog=example("runs gc"))
@with_options
def runs_gc(
    source: ConfigSource,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them, after confirmation.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needed without a terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs on disk that no row uses, with state and size. The workflow deletes none.

    Rows of all tables in the config's folder count, including those that are not targets and those
    whose data are disabled.
    """
    from clip4vla.common.console import console, in_bytes, table
    from clip4vla.config.planner import used_keys
    from clip4vla.runs.removal import remove, unused

    leftover = unused(used_keys(source.config_files, source.overrides))
    if as_json and not delete:
        typer.echo(json.dumps([asdict(run) for run in leftover], indent=2))
        return
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
