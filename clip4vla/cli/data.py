"""The commands `clip4vla data ...`: from ids and annotations to frozen shards."""

from pathlib import Path
from typing import Annotated

import typer

from clip4vla.cli.options import (
    DEFAULT_CONFIG,
    CacheId,
    ConfigFiles,
    Shard,
    Threads,
    Values,
    Version,
    plan_of,
)
from clip4vla.common.errors import UserError

data = typer.Typer(no_args_is_help=True, help="From ids and annotations to frozen shards.")


@data.command("check")
def data_check(
    target: Annotated[
        str, typer.Argument(help="A table, TABLE/ROW, a run key, data or pretrain.")
    ] = "all",
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Report missing and unusable files of a target, one line each, with the place for them."""
    from clip4vla.config.targets import narrowed
    from clip4vla.stages.inputs import input_problems

    if problems := input_problems(narrowed(plan_of(config_files, values), target)):
        raise UserError("\n".join(problems))
    needed = "the targets need" if target == "all" else f"{target} needs"
    typer.echo(f"all files that {needed} are there")


@data.command("plan")
def data_plan(
    version: Version, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Read a dataset's official annotation files and deal its clips to shards."""
    from clip4vla.stages import data as stage

    stage.plan(plan_of(config_files, values), version)


@data.command("fetch")
def data_fetch(
    version: Version,
    shard: Shard,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Fetch the media of one shard that have not been fetched yet."""
    from clip4vla.stages import data as stage

    stage.fetch(plan_of(config_files, values), version, shard)


@data.command("status")
def data_status(
    dataset: Annotated[
        str | None, typer.Argument(help="Name or version; all of the targets without one.")
    ] = None,
    missing: Annotated[
        Path | None, typer.Option(help="Also list the missing clips so far in this .tsv file.")
    ] = None,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Show the progress of the data by split and status, at any stage; draw it to status.png."""
    from clip4vla.common.console import console
    from clip4vla.stages import data_status as stage

    stage.status(plan_of(config_files, values), dataset, missing, console())


@data.command("retry")
def data_retry(
    dataset: Annotated[
        str | None, typer.Argument(help="Name or version; all of the targets without one.")
    ] = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="End all pauses, after setting `cookies` for example.")
    ] = False,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Let the next snakemake request refused clips again whose pause is over."""
    from clip4vla.stages import data_status as stage

    for line in stage.retry(plan_of(config_files, values), dataset, at_once):
        typer.echo(line)


@data.command("probe")
def data_probe(version: Version, shard: Shard) -> None:
    """Decode every file of one shard once and record its streams and length."""
    from clip4vla.stages import data as stage

    stage.probe(version, shard)


@data.command("ledger")
def data_ledger(
    version: Version, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Join plan, fetch and probe: one row per clip, coverage by split, missing clips."""
    from clip4vla.stages import data as stage

    stage.ledger(plan_of(config_files, values), version)


@data.command("cache")
def data_cache(
    version: Version,
    cache_id: CacheId,
    shard: Shard,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Write one shard of frames and log-mel spectrograms."""
    from clip4vla.stages import data as stage

    stage.cache(plan_of(config_files, values), version, cache_id, shard)


@data.command("freeze")
def data_freeze(
    version: Version,
    cache_id: CacheId,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Freeze a dataset version: the list of shards with their hashes that runs read and cite."""
    from clip4vla.stages import data as stage

    stage.freeze(plan_of(config_files, values), version, cache_id)


@data.command("verify")
def data_verify(
    dataset: Annotated[
        str | None, typer.Argument(help="Name or version of a dataset; all without it.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged shards to the frozen bytes.")
    ] = False,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    threads: Threads = 2,
) -> None:
    """Compare every shard with its manifest. Exit 0: intact or repaired; 1: damaged."""
    from clip4vla.stages import data as stage

    intact = stage.verify(plan_of(config_files, values), dataset, repair, threads)
    raise typer.Exit(0 if intact else 1)
