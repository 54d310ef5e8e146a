"""The commands `clip4vla index` and `clip4vla search`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import with_options
from clip4vla.common.errors import UserError
from clip4vla.common.hardware import Hardware
from clip4vla.search.options import IndexHardware, IndexOptions


@with_options
def index(
    hardware: IndexHardware,
    options: IndexOptions,
    folder: Annotated[Path, typer.Argument(help="A folder of videos and sounds of any length.")],
) -> None:
    """Make the index of a folder, or bring it up to date.

    It can be interrupted at any time and resumes. Only new and changed files are embedded.
    """
    from clip4vla.search.build import build

    build(folder, options, hardware)


@with_options
def search(
    hardware: Hardware,
    index: Annotated[Path, typer.Argument(help="The folder of an index.")],
    text: Annotated[str | None, typer.Argument(help='Words, such as "a dog barking".')] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound to search by.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to search by.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video to search by.")] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Windows to find.")] = 10,
    sound_weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="0: pictures alone, to 1: sounds alone."),
    ] = None,
    nonverbal_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Type token: 0 for speech to 1 for other sound."),
    ] = None,
    overlapping: Annotated[
        bool, typer.Option("--overlapping", help="List windows that overlap a better one, too.")
    ] = False,
    rescore: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Windows that a joint encoder looks at again; default: 100, or 20 if they must be "
            "decoded again.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every window, in a large index, too.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Where the checkpoint of the index is now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Find the windows of an index that fit words, a sound, a picture or a video."""
    if as_json and as_csv:
        raise UserError("--json and --csv: one of them is printed. Fix: leave one out")
    from clip4vla.common.device import take
    from clip4vla.search.index import Index
    from clip4vla.search.query import Query, find
    from clip4vla.search.shown import csv_text, rows_of, show

    query = Query(
        text=text,
        audio=audio,
        image=image,
        video=video,
        sound_weight=sound_weight,
        nonverbal_share=nonverbal_share,
    )
    device, _ = take(hardware)
    opened = Index(index, checkpoint, device)
    hits = find(opened, query, top, apart=not overlapping, rescore=rescore, exact=exact)
    if as_json:
        typer.echo(json.dumps(rows_of(opened, hits), indent=2))
    elif as_csv:
        typer.echo(csv_text(opened, hits), nl=False)
    else:
        show(hits)
