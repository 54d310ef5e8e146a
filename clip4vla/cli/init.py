"""The command `clip4vla init`."""

from pathlib import Path
from typing import Annotated

import typer


def init(folder: Annotated[Path, typer.Argument(help="Folder of the new project.")]) -> None:
    """Write a project: config, a table, profiles and a Snakefile that uses this workflow.

    No file is overwritten.
    """
    from clip4vla.stages import project as stage

    for path in stage.init(folder):
        typer.echo(folder / path)
    typer.echo(f"Next: read {folder / 'README.md'}")
