"""The commands `clip4vla data ...`: from ids and annotations to frozen shards."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import (
    CacheId,
    ConfigSource,
    Shard,
    Target,
    Version,
    example,
    of_datasets,
    with_options,
)
from clip4vla.cli.place import own_file
from clip4vla.common.errors import UserError

data = typer.Typer(
    no_args_is_help=True,
    help="From ids and annotations to frozen shards.",
    epilog=example("data check table5"),
)


@data.command("check", epilog=example("data check table5"))
@with_options
def data_check(
    source: ConfigSource,
    target: Target = "all",
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode each file of own clips (reader csv).")
    ] = False,
) -> None:
    """Report missing and unusable files of a target, one line each, with the place for them.

    Describe own clips (reader csv), and look for each of their files.
    """
    from clip4vla.config.part import narrowed
    from clip4vla.stages.inputs import input_problems
    from clip4vla.stages.own_clips import own_media

    part = narrowed(source.plan(), target)
    if problems := input_problems(part):
        raise UserError(*problems)
    found = own_media(part, decode)
    for line in found.lines:
        typer.echo(line)
    if found.problems:
        raise UserError(*found.problems)
    needed = "the targets need" if target == "all" else f"{target} needs"
    typer.echo(f"all files that {needed} are there")


@data.command("plan", epilog=example("data plan msrvtt-v1-5e9197"))
@with_options
def data_plan(source: ConfigSource, version: Version) -> None:
    """Read a dataset's official annotation files and deal its clips to shards."""
    from clip4vla.stages import data as stage

    stage.plan(source.plan(), version)


@data.command("fetch", epilog=example("data fetch msrvtt-v1-5e9197 3"))
@with_options
def data_fetch(source: ConfigSource, version: Version, shard: Shard) -> None:
    """Fetch the media of one shard that have not been fetched yet."""
    from clip4vla.stages import data as stage

    stage.fetch(source.plan(), version, shard)


@data.command("status", epilog=example("data status msrvtt"))
@with_options
def data_status(
    source: ConfigSource,
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="Name or version; all of the targets without one.", autocompletion=of_datasets
        ),
    ] = None,
    missing: Annotated[
        Path | None,
        typer.Option(
            help="Also list the missing clips so far in this .tsv file.", callback=own_file
        ),
    ] = None,
) -> None:
    """Show the progress of the data by split and status, at any stage; draw it to status.png."""
    from clip4vla.common.console import console
    from clip4vla.stages import data_status as stage

    stage.status(source.plan(), dataset, missing, console())


@data.command("retry", epilog=example("data retry msrvtt --now"))
@with_options
def data_retry(
    source: ConfigSource,
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="Name or version; all of the targets without one.", autocompletion=of_datasets
        ),
    ] = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="End all pauses, after setting `cookies` for example.")
    ] = False,
) -> None:
    """Let the next snakemake request refused clips again whose pause is over."""
    from clip4vla.stages import data_status as stage

    for line in stage.retry(source.plan(), dataset, at_once):
        typer.echo(line)


@data.command("probe", epilog=example("data probe msrvtt-v1-5e9197 3"))
def data_probe(version: Version, shard: Shard) -> None:
    """Decode every file of one shard once and record its streams and length."""
    from clip4vla.stages import data as stage

    stage.probe(version, shard)


@data.command("ledger", epilog=example("data ledger msrvtt-v1-5e9197"))
@with_options
def data_ledger(source: ConfigSource, version: Version) -> None:
    """Join plan, fetch and probe: one row per clip, coverage by split, missing clips."""
    from clip4vla.stages import data as stage

    stage.ledger(source.plan(), version)


@data.command("cache", epilog=example("data cache msrvtt-v1-5e9197 4e173e09 3"))
@with_options
def data_cache(source: ConfigSource, version: Version, cache_id: CacheId, shard: Shard) -> None:
    """Write one shard of frames and log-mel spectrograms."""
    from clip4vla.stages import data as stage

    stage.cache(source.plan(), version, cache_id, shard)


@data.command("freeze", epilog=example("data freeze msrvtt-v1-5e9197 4e173e09"))
@with_options
def data_freeze(source: ConfigSource, version: Version, cache_id: CacheId) -> None:
    """Freeze a dataset version: the list of shards with their hashes that runs read and cite."""
    from clip4vla.stages import data as stage

    stage.freeze(source.plan(), version, cache_id)


@data.command("verify", epilog=example("data verify msrvtt --repair"))
@with_options
def data_verify(
    source: ConfigSource,
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="Name or version of a dataset; all without it.", autocompletion=of_datasets
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged shards to the frozen bytes.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Processes, a shard each.")] = 2,
) -> None:
    """Compare every shard with its manifest. Exit 0: intact or repaired; 1: damaged."""
    from clip4vla.stages import data as stage

    intact = stage.verify(source.plan(), dataset, repair, threads)
    raise typer.Exit(0 if intact else 1)
