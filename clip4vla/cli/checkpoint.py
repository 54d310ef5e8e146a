"""The commands `clip4vla checkpoint ...`: files of weights."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from clip4vla.cli.options import ConfigSource, example, of_runs, path_or_name, with_options
from clip4vla.cli.place import folder, own_file
from clip4vla.common.errors import UserError, printable
from clip4vla.config.layout import RUN_KEY

checkpoint = typer.Typer(
    no_args_is_help=True,
    help="Files of weights: inspect, import, export, share.",
    epilog=example("checkpoint inspect ViT-B-32.pt"),
)


def _key_or_path(value: str) -> str:
    stays = RUN_KEY.fullmatch(value) or folder() == Path.cwd()
    return value if stays else path_or_name(value)


def _is_row(value: str) -> bool:
    """Return whether a value may be the row of a run, not a key, a file or an address."""
    return "/" in value and "://" not in value and not Path(value).suffix and value[0] not in "./"


def _tell(line: str) -> None:
    """Print a line that may contain names from a file."""
    typer.echo(printable(line))


@checkpoint.command("inspect", epilog=example("checkpoint inspect ViT-B-32.pt"))
def checkpoint_inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A file of weights of any kind, hf://OWNER/NAME or hf://OWNER/NAME@REVISION."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a file of weights. No code in it is executed."""
    from clip4vla.checkpoints.hub import source_of
    from clip4vla.stages import checkpoints as stage

    report = stage.inspect(source_of(path).path)
    typer.echo(json.dumps(report, indent=2) if as_json else printable(stage.show(report)))


@checkpoint.command(
    "import", epilog=example("checkpoint import ViT-B-32.pt clip.safetensors --fresh audio")
)
def checkpoint_import(
    path: Annotated[
        Path,
        typer.Argument(
            help="A file of CLIP, CLIP4VLA, MCLIP4VLA or CAV-MAE, or an older one of ours."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.", callback=own_file)],
    fresh: Annotated[
        list[str] | None,
        typer.Option(help="A part to initialise, such as audio; repeatable."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="A part of the file to leave out; repeatable.")
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="A file of CLIP alone, for fresh text or vision.")
    ] = None,
    values: Annotated[
        str | None,
        typer.Option("--set", help='Settings as JSON, such as {"model.type_token": "both"}.'),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Names of a probe's classes, one a line, in its order.")
    ] = None,
) -> None:
    """Convert a file of weights to ours. Nothing is written unless every tensor fits."""
    from clip4vla.stages import checkpoints as stage

    stage.import_(
        path,
        out,
        fresh=fresh or [],
        drop=drop or [],
        clip=clip,
        values=values,
        classes=classes,
        tell=_tell,
    )


@checkpoint.command(
    "export", epilog=example("checkpoint export 459810c9f189 out --license cc-by-4.0")
)
@with_options
def checkpoint_export(
    source: ConfigSource,
    weights: Annotated[
        str,
        typer.Argument(
            help="A run key, finetune: and a row, a file of ours, hf://OWNER/NAME or "
            "hf://OWNER/NAME@REVISION.",
            callback=_key_or_path,
            autocompletion=of_runs,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    names: Annotated[
        Literal["ours", "released"],
        typer.Option(help="Tensor names: ours, or the released code's."),
    ] = "ours",
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="A metrics.json for the card; default: those in results/."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Licence on the card, by the Hub's id, such as cc-by-4.0. Without it the card "
            "says that none is stated.",
        ),
    ] = None,
) -> None:
    """Write weights, config.json and a model card into a folder, ready for the Hugging Face Hub."""
    if licence and not licence.isprintable():
        raise UserError(
            "--license: not one line of text. Fix: give the licence's name, such as cc-by-4.0"
        )
    from clip4vla.config.plan import TRAINED
    from clip4vla.stages.export import export

    export(
        source.plan().key_of(weights, TRAINED) if _is_row(weights) else weights,
        out,
        names=names,
        metrics=metrics or [],
        licence=licence,
        tell=_tell,
        known=source.plan,
    )


@checkpoint.command("push", epilog=example("checkpoint push out me/my-model --dry-run"))
def checkpoint_push(
    folder: Annotated[Path, typer.Argument(help="A folder that `checkpoint export` wrote.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    revision: Annotated[
        str | None, typer.Option(help="The branch to write, created if missing; default: main.")
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public", help="Let everybody read a new repository; the default is private."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")
    ] = False,
) -> None:
    """Send an exported folder to the Hugging Face Hub, as one commit.

    The access token is that of `hf auth login` or of the variable HF_TOKEN. An interrupted command
    changes nothing on the Hub; run again, it does not send files that have arrived.
    """
    from clip4vla.stages.push import push

    push(folder, repository, revision=revision, public=public, dry_run=dry_run, tell=_tell)
