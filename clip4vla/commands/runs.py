"""The commands `clip4vla runs ...`: what has been run here."""

import json
from typing import Annotated

import typer

from clip4vla.commands.options import DEFAULT_CONFIG, ConfigFiles, Values, plan_of

runs = typer.Typer(no_args_is_help=True, help="What has been run here.")
Key = Annotated[str, typer.Argument(help="Run key, 12 hex digits.")]
Evaluation = Annotated[str, typer.Argument(help="Run key of an evaluation, or its folder.")]


@runs.command("ls")
def runs_ls(
    target: Annotated[str, typer.Argument(help="A table, TABLE/ROW, a run key.")] = "all",
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """List the runs of a target: how far each is, its first number, the row that needs it."""
    from clip4vla.config.targets import narrowed
    from clip4vla.consoles import console, table
    from clip4vla.stages.run_list import list_runs

    plan = narrowed(plan_of(config_files, values), target)
    found = table("run key", "stage", "state", "number", "first row that needs it")
    for run in list_runs(plan):
        found.add_row(run.key, run.stage, run.state, run.number, run.name)
    why = f"; `clip4vla plan {target}` says why" if plan.without_data else ""
    console().print(found if plan.runs else f"no runs in {target}{why}")


@runs.command("show")
def runs_show(key: Key) -> None:
    """Print config, numbers and attempts of a run as JSON."""
    from clip4vla.stages.run_list import show

    typer.echo(json.dumps(show(key), indent=2))


@runs.command("diff")
def runs_diff(one: Key, two: Key) -> None:
    """Print what differs between two runs: settings, and the numbers that both have."""
    from clip4vla.consoles import console, table
    from clip4vla.stages.run_list import differences

    settings, found = differences(one, two)
    out = console()
    rows = table("setting", one, two)
    for name, pair in settings.items():
        rows.add_row(name, *pair)
    out.print(rows if settings else "the settings are the same")
    rows = table("number", one, two, "difference")
    for name, (a, b) in found.items():
        rows.add_row(name, f"{a:g}", f"{b:g}", f"{b - a:+g}")
    out.print(rows if found else "no number that both have")


@runs.command("compare")
def runs_compare(
    first: Evaluation,
    second: Evaluation,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Is one evaluation better than another? A paired test on the same clips and queries.

    Differences are second minus first, with a 95 % interval over draws of clips and the p of a
    permutation test that exchanges the two runs clip by clip. Runs on different clips are refused.
    """
    from clip4vla.stages import compare as stage

    found = stage.compare(first, second)
    typer.echo(json.dumps(stage.as_json(found), indent=2) if as_json else stage.show(found))


@runs.command("gc")
def runs_gc(
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; without it they are only listed.")
    ] = False,
) -> None:
    """List runs here that no row of the config uses, with their size. The workflow deletes none."""
    from clip4vla.stages.run_list import remove, unused

    found = unused(plan_of(config_files, values))
    for key, size in found:
        if delete:
            remove(key)
        typer.echo(f"{key}  {size / 1e6:10,.1f} MB{'  removed' if delete else ''}")
    whole = sum(size for _, size in found) / 1e6
    end = "" if delete or not found else "; --delete removes them for good"
    typer.echo(f"{len(found)} runs that no row uses, {whole:,.1f} MB{end}")
