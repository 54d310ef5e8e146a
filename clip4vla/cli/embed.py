"""The commands `clip4vla embed text|audio|video`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from clip4vla.cli.options import example, with_options
from clip4vla.cli.place import own_file
from clip4vla.common.hardware import Hardware, ReadingHardware
from clip4vla.common.packaged import see

embed = typer.Typer(
    no_args_is_help=True,
    help=f"Vectors of your own texts, sounds and videos{see('embed.md')}.",
    epilog=example("embed text model.safetensors captions.txt --out texts.npz"),
)

Checkpoint = Annotated[
    str,
    typer.Argument(
        help="A model.safetensors that this project trained or imported, or one on the Hugging "
        "Face Hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION."
    ),
]
Media = Annotated[list[Path], typer.Argument(help="Files, and folders with their subfolders.")]
Out = Annotated[Path, typer.Option(help="The table to write: .npz or .parquet.", callback=own_file)]
Pool = Annotated[
    Literal["mean", "none"],
    typer.Option(help="mean: one vector a clip; none: one for each frame or segment."),
]
Every = Annotated[
    float | None,
    typer.Option(help="Cut each file into windows of this many seconds, each one a clip."),
]
Batch = Annotated[int, typer.Option(min=1, help="Frames or segments that pass a tower at once.")]


@embed.command("text", epilog=example("embed text model.safetensors captions.txt --out texts.npz"))
@with_options
def embed_text(
    hardware: Hardware,
    checkpoint: Checkpoint,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Text files with a sentence per line, csv or tsv files, - for stdin."),
    ],
    out: Out,
    column: Annotated[
        str | None,
        typer.Option(help="Column of csv and tsv files; default: text, caption or sentence."),
    ] = None,
) -> None:
    """Embed sentences, one vector each. An interrupted command resumes when run again."""
    from clip4vla.stages import embed as stage

    stage.embed_texts(checkpoint, inputs, out, column=column, hardware=hardware)


@embed.command("audio", epilog=example("embed audio model.safetensors sounds --out sounds.npz"))
@with_options
def embed_audio(
    hardware: ReadingHardware,
    checkpoint: Checkpoint,
    inputs: Media,
    out: Out,
    pool: Pool = "mean",
    every: Every = None,
    nonverbal_share: Annotated[
        float | None,
        typer.Option(help="Type token: 0 for speech to 1 for other sound; else as in training."),
    ] = None,
    batch_size: Batch = 64,
) -> None:
    """Embed the audio of sound and video files. An interrupted command resumes when run again."""
    from clip4vla.stages import embed as stage

    options = stage.Options(pool=pool, every=every, nonverbal_share=nonverbal_share)
    stage.embed_media(
        "audio",
        checkpoint,
        inputs,
        out,
        options,
        batch_size=batch_size,
        hardware=hardware,
    )


@embed.command("video", epilog=example("embed video model.safetensors videos --out videos.npz"))
@with_options
def embed_video(
    hardware: ReadingHardware,
    checkpoint: Checkpoint,
    inputs: Media,
    out: Out,
    pool: Pool = "mean",
    every: Every = None,
    batch_size: Batch = 64,
) -> None:
    """Embed the frames of video files. An interrupted command resumes when run again."""
    from clip4vla.stages import embed as stage

    options = stage.Options(pool=pool, every=every)
    stage.embed_media(
        "video",
        checkpoint,
        inputs,
        out,
        options,
        batch_size=batch_size,
        hardware=hardware,
    )
