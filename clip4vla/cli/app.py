"""The command `clip4vla app`."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import with_options
from clip4vla.common.extras import require
from clip4vla.common.hardware import Hardware


@with_options
def search_page(
    hardware: Hardware,
    index: Annotated[
        Path, typer.Argument(help="The folder of an index that `clip4vla index` made.")
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Where the checkpoint of the index is now, if it has been moved."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Other than 127.0.0.1, everybody who reaches this machine "
            "can search the index and play its files."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8350,
) -> None:
    """Search an index in a browser: by words, a sound, a picture or a video; play what is found."""
    require("app", "clip4vla app")
    from clip4vla.search.app.serve import serve

    serve(index, hardware, checkpoint=checkpoint, host=host, port=port)
