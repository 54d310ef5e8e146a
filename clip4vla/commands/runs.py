"""The commands `clip4vla runs ...`: finished runs, looked at side by side."""

import json
from typing import Annotated

import typer

runs = typer.Typer(no_args_is_help=True, help="Finished runs, looked at side by side.")
Evaluation = Annotated[str, typer.Argument(help="Run key of an evaluation, or its folder.")]


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
