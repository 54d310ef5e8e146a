"""The command `clip4vla examples`: pages of clips to look at and to listen to."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import RUN, ConfigSource, of_runs, with_options
from clip4vla.cli.place import own_file


@with_options
def examples(
    source: ConfigSource,
    run: Annotated[
        str,
        typer.Argument(
            help=f"An evaluation, or with substitute: before it a substitution. {RUN}",
            autocompletion=of_runs,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Another evaluation of the same clips, to show both side by side.",
            autocompletion=of_runs,
        ),
    ] = None,
    previews: Annotated[
        bool,
        typer.Option(
            "--previews",
            help="Put small films into the page, to send it: else it plays the files of this "
            "machine. They are made once and kept with the cache.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. Default: below results/preview/examples.", callback=own_file
        ),
    ] = None,
) -> None:
    """Write a page of the examples, or the donors, of a run: a click plays a clip."""
    from clip4vla.stages import examples as stage

    typer.echo(stage.write_page(source.plan(), run, against, previews, out))
