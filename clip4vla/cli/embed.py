"""The commands `clip4vla embed text|audio|video`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

embed = typer.Typer(
    no_args_is_help=True, help="Vectors of your own texts, sounds and videos; see docs/embed.md."
)

Checkpoint = Annotated[
    Path, typer.Argument(help="A model.safetensors that this project trained or imported.")
]
Media = Annotated[list[Path], typer.Argument(help="Files, and folders with their subfolders.")]
Out = Annotated[Path, typer.Option(help="The table to write: .npz or .parquet.")]
Pool = Annotated[
    Literal["mean", "none"],
    typer.Option(help="mean: one vector a clip; none: one for each frame or segment."),
]
Every = Annotated[
    float | None,
    typer.Option(help="Cut each file into windows of this many seconds, each one a clip."),
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; default: a GPU, if any.")]
Batch = Annotated[int, typer.Option(min=1, help="Frames or segments that pass a tower at once.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads, and processes that decode.")]


@embed.command("text")
def embed_text(
    checkpoint: Checkpoint,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Text files with a sentence per line, csv or tsv files, - for stdin."),
    ],
    out: Out,
    column: Annotated[
        str | None, typer.Option(help="Of csv and tsv files; text, caption or sentence.")
    ] = None,
    device: Device = None,
    threads: Threads = 2,
) -> None:
    """Embed sentences, one vector each. An interrupted command resumes when run again."""
    from clip4vla.stages import embed as stage

    stage.embed_texts(checkpoint, inputs, out, column=column, device=device, threads=threads)


@embed.command("audio")
def embed_audio(
    checkpoint: Checkpoint,
    inputs: Media,
    out: Out,
    pool: Pool = "mean",
    every: Every = None,
    nonverbal_share: Annotated[
        float | None,
        typer.Option(help="Type token: 0 for speech to 1 for other sound; else as in training."),
    ] = None,
    device: Device = None,
    batch_size: Batch = 64,
    threads: Threads = 2,
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
        device=device,
        batch_size=batch_size,
        threads=threads,
    )


@embed.command("video")
def embed_video(
    checkpoint: Checkpoint,
    inputs: Media,
    out: Out,
    pool: Pool = "mean",
    every: Every = None,
    device: Device = None,
    batch_size: Batch = 64,
    threads: Threads = 2,
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
        device=device,
        batch_size=batch_size,
        threads=threads,
    )
