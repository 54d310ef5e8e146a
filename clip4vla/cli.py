"""The command line: every rule of the workflow is one of these commands, runnable by hand.

Heavy libraries are imported inside the commands, so that `--help` and `plan` answer at once.
"""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clip4vla import __version__
from clip4vla.cli_embed import embed
from clip4vla.errors import EXIT_RETRY, EXIT_USER_ERROR, RetryLater, UserError, describe_os_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reproduce CLIP4VLA (AAAI 2023) from raw videos to its tables.\n\n"
    "Snakemake calls these commands; each also works alone, from the folder that the workflow "
    "runs in. Start with `clip4vla doctor`, then `clip4vla plan`.",
)
data = typer.Typer(no_args_is_help=True, help="From ids and annotations to frozen shards.")
config = typer.Typer(no_args_is_help=True, help="Look at what the config resolves to.")
setup = typer.Typer(no_args_is_help=True, help="Set this project up on a cluster.")
checkpoint = typer.Typer(no_args_is_help=True, help="Files of weights: look, take, hand out.")
tables = typer.Typer(no_args_is_help=True, help="From metrics to tables, figures and pages.")
app.add_typer(data, name="data")
app.add_typer(config, name="config")
app.add_typer(tables, name="tables")
app.add_typer(setup, name="setup")
app.add_typer(embed, name="embed")
app.add_typer(checkpoint, name="checkpoint")

ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        envvar="CLIP4VLA_CONFIG",
        help="Config file; again for overrides. Later ones win.",
    ),
]
Values = Annotated[
    str | None,
    typer.Option(
        "--set", envvar="CLIP4VLA_SET", help='Overrides as JSON, such as {"targets": ["table5"]}.'
    ),
]
Version = Annotated[str, typer.Argument(help="Dataset version, such as demo-v1-0a1b2c.")]
CacheId = Annotated[str, typer.Argument(help="Cache id, 8 hex digits.")]
Shard = Annotated[int, typer.Argument(min=0, help="Shard number.")]
RunKey = Annotated[str, typer.Argument(help="Run key, 12 hex digits; see `clip4vla plan`.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of this process.")]
DEFAULT_CONFIG = [Path("config.yaml")]


def plan_of(files: list[Path], values: str | None):
    """The plan of these config files."""
    from clip4vla.config.plan import make_plan

    try:
        overrides = json.loads(values) if values else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--set: not JSON ({error})") from None
    return make_plan(files, overrides)


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options that stand before the command."""
    if version:
        typer.echo(f"clip4vla {__version__}")
        raise typer.Exit()


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Where results shall go.")] = Path("."),
) -> None:
    """Check this machine: versions, GPUs, Java, ffmpeg, Slurm, disk; each with its remedy."""
    from rich.console import Console

    from clip4vla.doctor import check, report

    raise typer.Exit(report(check(folder), Console()))


@app.command()
def plan(config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None) -> None:
    """List every run of the targets: key, stage, whether it is done, and the row that needs it."""
    from clip4vla.config.summary import print_plan

    print_plan(plan_of(config_files, values))


@config.command("show")
def config_show(
    run_key: RunKey, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Print the resolved config of a run."""
    run = plan_of(config_files, values).run(run_key)
    typer.echo(json.dumps(run.scientific(), indent=2))


@config.command("reference")
def config_reference(
    repository: Annotated[Path, typer.Argument(help="A checkout of this project.")] = Path("."),
) -> None:
    """Write docs/config.md and workflow/schemas/*.json from the code."""
    from clip4vla.config.reference import markdown, schemas
    from clip4vla.files import write_json, write_text

    write_text(repository / "docs" / "config.md", markdown())
    for name, schema in schemas().items():
        write_json(repository / "workflow" / "schemas" / name, schema)


@data.command("check")
def data_check(config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None) -> None:
    """Say which of your files are missing, one line each, and where they belong."""
    from clip4vla.datasets.ready import missing_files
    from clip4vla.stages.runs import unfit_tags

    found = plan_of(config_files, values)
    if problems := missing_files(found) + unfit_tags(found):
        raise UserError("\n".join(problems))
    typer.echo("all files that the targets need are there")


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
    """Fetch the media of one shard; what is there already is not fetched again."""
    from clip4vla.stages import data as stage

    stage.fetch(plan_of(config_files, values), version, shard)


@data.command("status")
def data_status(
    dataset: Annotated[
        str | None, typer.Argument(help="Name or version; all of the targets without one.")
    ] = None,
    missing: Annotated[
        Path | None, typer.Option(help="Also write what is missing so far to this .tsv file.")
    ] = None,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Say how far the data are, by split and status, at any stage; draw it to status.png."""
    from rich.console import Console

    from clip4vla.stages import data_status as stage

    console = Console(highlight=False, soft_wrap=True)
    stage.status(plan_of(config_files, values), dataset, missing, console)


@data.command("retry")
def data_retry(
    dataset: Annotated[
        str | None, typer.Argument(help="Name or version; all of the targets without one.")
    ] = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="Do not wait for the pauses: you set `cookies`, say.")
    ] = False,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Let the next snakemake ask again for clips that were refused, if their pause is over."""
    from clip4vla.stages import data_status as stage

    for line in stage.retry(plan_of(config_files, values), dataset, at_once):
        typer.echo(line)


@data.command("probe")
def data_probe(version: Version, shard: Shard) -> None:
    """Decode every file of one shard once and note what is in it."""
    from clip4vla.stages import data as stage

    stage.probe(version, shard)


@data.command("ledger")
def data_ledger(
    version: Version, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Join plan, fetch and probe: one row a clip, coverage by split, and what is missing."""
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
        bool, typer.Option("--repair", help="Build damaged shards again, to the frozen bytes.")
    ] = False,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    threads: Threads = 2,
) -> None:
    """Read every shard and compare it with its manifest. Exit 0: whole, or mended; 1: damaged."""
    from clip4vla.stages import data as stage

    whole = stage.verify(plan_of(config_files, values), dataset, repair, threads)
    raise typer.Exit(0 if whole else 1)


@app.command()
def train(
    run_key: RunKey,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    threads: Threads = 2,
    max_seconds: Annotated[
        float | None, typer.Option(help="Save and stop (exit 75) before this many seconds.")
    ] = None,
) -> None:
    """Pre-train or fine-tune one run. Killed at any moment, the same command goes on from there."""
    from clip4vla.stages import runs as stage

    stage.train(plan_of(config_files, values), run_key, threads, max_seconds)


@app.command()
def launch(
    run_key: RunKey,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    launcher: Annotated[
        str, typer.Option(help="local: on this machine. slurm: as one job over all nodes.")
    ] = "local",
    nodes: Annotated[int, typer.Option(min=1, help="slurm: machines.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option(min=0, help="One process each; 0: one process on the CPU.")
    ] = 0,
    gpu_model: Annotated[str, typer.Option(help="slurm: such as v100.")] = "any",
    threads: Threads = 2,
    mem_mb: Annotated[int, typer.Option(min=0, help="slurm: memory of every node.")] = 0,
    minutes: Annotated[int, typer.Option(min=1, help="slurm: time limit of one job.")] = 60,
    partition: Annotated[str, typer.Option(help="slurm: where to run.")] = "any",
    account: Annotated[str, typer.Option(help="slurm: who pays.")] = "any",
    constraint: Annotated[str, typer.Option(help="slurm: features of the nodes.")] = "any",
) -> None:
    """Train one run on several GPUs or nodes, and wait for its end.

    Run again, it attaches to the Slurm job that is still there, or goes on from the checkpoint.
    """
    from clip4vla.launch.request import Request
    from clip4vla.stages import runs as stage

    request = Request(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        gpu_model=gpu_model,
        threads=threads,
        mem_mb=mem_mb,
        minutes=minutes,
        partition=partition,
        account=account,
        constraint=constraint,
    )
    stage.launch(plan_of(config_files, values), run_key, launcher, request)


@setup.command("slurm")
def setup_slurm(
    account: Annotated[str, typer.Option(help="Who pays; leave it out where nobody does.")] = "",
    partition: Annotated[
        str, typer.Option(help="Where jobs run (`sinfo`); else the default.")
    ] = "",
    gpu_model: Annotated[str, typer.Option(help="Such as v100, where there are several.")] = "",
    constraint: Annotated[str, typer.Option(help="Features that pre-training needs.")] = "",
    nodes: Annotated[int, typer.Option(min=1, help="Machines for pre-training.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="Of these machines.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for every GPU.")] = 8,
    minutes: Annotated[int, typer.Option(min=10, help="Longest time of one job.")] = 1440,
    mem_mb: Annotated[int, typer.Option(min=1000, help="Memory of these machines.")] = 64000,
    name: Annotated[str, typer.Option(help="`snakemake --profile NAME`.")] = "slurm",
    replace: Annotated[bool, typer.Option(help="Overwrite a profile that is there.")] = False,
    show: Annotated[bool, typer.Option(help="Print the profile, write nothing.")] = False,
) -> None:
    """Write your copy of the Slurm profile, so that `snakemake --profile slurm all` works."""
    from clip4vla.launch.profile import Cluster, check, install, render

    cluster = Cluster(
        account,
        partition,
        gpu_model,
        constraint,
        nodes,
        gpus_per_node,
        threads,
        minutes,
        mem_mb,
    )
    text = render(cluster)
    if show:
        typer.echo(text, nl=False)
        return
    check(cluster)
    path = install(text, name, replace)
    typer.echo(f"wrote {path}; edit it as you like. Next: snakemake --profile {name} -n all")


@app.command()
def substitute(
    run_key: RunKey,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    threads: Threads = 2,
) -> None:
    """Find donors for silent clips: nearest vision neighbours with sound in the training split."""
    from clip4vla.stages import runs as stage

    stage.substitute(plan_of(config_files, values), run_key, threads)


@app.command()
def evaluate(
    run_key: RunKey,
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
    threads: Threads = 2,
) -> None:
    """Score one checkpoint on one split; write metrics with N, coverage and the hash of the ids."""
    from clip4vla.stages import runs as stage

    stage.evaluate(plan_of(config_files, values), run_key, threads)


@tables.command("sheet")
def tables_sheet(
    table: str, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Write which runs fill the cells of a table."""
    from clip4vla.stages import results as stage

    stage.sheet(plan_of(config_files, values), table)


@tables.command("build")
def tables_build(
    table: str, config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None
) -> None:
    """Build one table (Markdown, HTML, LaTeX, CSV). Rows that have not run say so."""
    from clip4vla.stages import results as stage

    stage.build(plan_of(config_files, values), table)


@tables.command("page")
def tables_page(config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None) -> None:
    """Draw the figures and put everything on one self-contained page, results/index.html."""
    from clip4vla.stages import results as stage

    stage.page(plan_of(config_files, values))


@tables.command("report")
def tables_report(
    snakefile: Annotated[Path, typer.Argument(help="The workflow's Snakefile.")],
    config_files: ConfigFiles = DEFAULT_CONFIG,
    values: Values = None,
) -> None:
    """Write Snakemake's report of the finished tables to results/report.zip."""
    from clip4vla.stages import results as stage

    stage.report(snakefile, config_files, values)


@checkpoint.command("inspect")
def checkpoint_inspect(
    path: Annotated[Path, typer.Argument(help="A file of weights of any kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file of weights is and holds. Nothing that is in it runs."""
    from clip4vla.stages import checkpoints as stage

    report = stage.inspect(path)
    typer.echo(json.dumps(report, indent=2) if as_json else stage.show(report))


@checkpoint.command("import")
def checkpoint_import(
    path: Annotated[Path, typer.Argument(help="CLIP, CLIP4VLA, MCLIP4VLA or an older file.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    fresh: Annotated[
        list[str] | None, typer.Option(help="A part to start anew, such as audio; repeatable.")
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
    """Take a file of weights over: every tensor finds its place, or nothing is written."""
    from clip4vla.stages import checkpoints as stage

    stage.import_(path, out, fresh or [], drop or [], clip, values, classes, typer.echo)


@checkpoint.command("export")
def checkpoint_export(
    source: Annotated[str, typer.Argument(help="A run key, or a file of ours.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    names: Annotated[
        Literal["ours", "released"], typer.Option(help="Ours, or of the released code.")
    ] = "ours",
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="A metrics.json for the card; without, those in results/ are found."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="What the card states, such as cc-by-4.0.")
    ] = None,
) -> None:
    """Write weights, config.json and a model card into a folder."""
    from clip4vla.stages import checkpoints as stage

    stage.export(source, out, names, metrics or [], licence, typer.echo)


@app.command()
def sync(config_files: ConfigFiles = DEFAULT_CONFIG, values: Values = None) -> None:
    """Replay the records of finished stages into MLflow; a second time adds nothing."""
    from clip4vla.stages import results as stage

    stage.sync(plan_of(config_files, values))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what the user can mend into one line on stderr; anything else keeps its traceback."""
    try:
        yield
    except UserError as error:
        fail(str(error), EXIT_USER_ERROR)
    except RetryLater as error:
        fail(str(error), EXIT_RETRY)
    except OSError as error:
        if error.errno is None:
            raise
        fail(describe_os_error(error), EXIT_USER_ERROR)


def fail(message: str, code: int) -> None:
    """Print the message and leave."""
    for line in message.splitlines():
        print(f"clip4vla: {line}", file=sys.stderr)
    raise SystemExit(code)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `clip4vla` command."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    if not sys.stderr.isatty():
        _print_command(arguments or sys.argv[1:])
    with one_line_errors():
        return app(args=arguments)


def _print_command(arguments: list[str]) -> None:
    """The first line of every log: what to type to run the same by hand."""
    names = ("CLIP4VLA_CONFIG", "CLIP4VLA_SET")
    values = [f"{name}={shlex.quote(os.environ[name])}" for name in names if name in os.environ]
    print("$", *values, "clip4vla", shlex.join(arguments), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
