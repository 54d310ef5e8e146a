"""The command line; every rule of the workflow runs one of these commands.

Heavy libraries are imported inside the commands, so that `--help` and `plan` answer at once.
"""

import contextlib
import io
import json
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from clip4vla import __version__
from clip4vla.cli.app import search_page
from clip4vla.cli.checkpoint import checkpoint
from clip4vla.cli.data import data
from clip4vla.cli.embed import embed
from clip4vla.cli.examples import examples
from clip4vla.cli.init import init
from clip4vla.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    ConfigSource,
    RunOfStage,
    Target,
    above_zero,
    example,
    with_options,
)
from clip4vla.cli.runs import runs
from clip4vla.cli.search import index, search
from clip4vla.cli.setup import setup
from clip4vla.cli.tables import tables
from clip4vla.common.errors import (
    EXIT_RETRY,
    EXIT_USER_ERROR,
    RetryLater,
    UserError,
    describe_os_error,
    exit_code_of,
    on_one_line,
    printable,
)
from clip4vla.common.extras import not_installed
from clip4vla.common.hardware import ReadingHardware
from clip4vla.config.family_names import FAMILIES
from clip4vla.launch.request import Request

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A laboratory for models of text, pictures and sound: from raw videos to trained models, "
    "tables of results and search.\n\n"
    f"Model families: {', '.join(FAMILIES)}. Snakemake calls these commands; each also works "
    "alone, from anywhere inside a project or its output folder. Start with `clip4vla doctor`, "
    "then `clip4vla plan`.",
    epilog=example("plan table5"),
)
config = typer.Typer(
    no_args_is_help=True,
    help="The resolved config of a run, and the reference of all keys.",
    epilog=example("config show 459810c9f189"),
)
app.command(epilog=example("init my-project"))(init)
app.add_typer(data, name="data")
app.add_typer(config, name="config")
app.add_typer(tables, name="tables")
app.add_typer(runs, name="runs")
app.add_typer(setup, name="setup")
app.add_typer(embed, name="embed")
app.add_typer(checkpoint, name="checkpoint")
app.command("examples", epilog=example("examples 0b1be62252eb --previews"))(examples)
app.command("index", epilog=example("index videos --checkpoint model.safetensors"))(index)
app.command("search", epilog=example("search videos.index 'a dog barks' -k 5"))(search)
app.command("app", epilog=example("app videos.index"))(search_page)
COMPLETING = "_CLIP4VLA_COMPLETE"  # set by a shell that asks for completions


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Handle options before the command."""
    if version:
        typer.echo(f"clip4vla {__version__}")
        raise typer.Exit()


@app.command(epilog=example("doctor"))
@with_options
def doctor(
    source: ConfigSource,
    folder: Annotated[Path, typer.Argument(help="Folder for results.")] = Path("."),
) -> None:
    """Check this machine: versions, GPUs, Java, ffmpeg, Slurm, disk; each with its remedy.

    Also check the MLflow server and the weights files of the config, and the requirements of
    YouTube where it is a source.
    """
    from rich.console import Console

    from clip4vla.cli.doctor import check, report
    from clip4vla.config.load import load_config

    tracking, from_youtube, weights = None, False, {}
    if source.config_files != DEFAULT_CONFIG or DEFAULT_CONFIG[0].is_file():
        config, _ = load_config(source.config_files, source.overrides)
        tracking = config.tracking
        used = [dataset for dataset in config.datasets.values() if dataset.enabled]
        from_youtube = any(dataset.source == "youtube" for dataset in used)
        weights = {name: item.path for name, item in config.weights.items() if item.path}
    checks = check(folder, tracking=tracking, from_youtube=from_youtube, weights=weights)
    raise typer.Exit(report(checks, Console()))


@app.command(epilog=example("plan table5"))
@with_options
def plan(
    source: ConfigSource,
    target: Target = "all",
    tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            callback=above_zero,
            help="Effective speed of your GPU; default: a V100's.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the cost of a target: runs, GPU hours, disk, downloads, missing files."""
    part = source.part(target)
    from clip4vla.common.late_packages import without_collection

    with without_collection():  # a fifth of the time
        from clip4vla.cost import report  # loads torch, which a wrong target needs not
        from clip4vla.stages.run_inputs import unfit_tags

        unfit = unfit_tags(part)
        if as_json:
            typer.echo(json.dumps(report.as_json(part, tflops, unfit_tags=unfit), indent=2))
        else:
            report.print_plan(part, tflops, unfit_tags=unfit)


@app.command(epilog=example("targets"))
@with_options
def targets(source: ConfigSource, as_json: AsJson = False) -> None:
    """List the targets of `snakemake TARGET` and `clip4vla plan TARGET`."""
    from clip4vla.common.console import console
    from clip4vla.config.targets import targets

    lines, width = targets(source.tables()), console().width
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
        return
    indent = min(max(map(len, lines)) + 2, width // 2)
    for name, line in lines.items():
        text = textwrap.fill(
            line,
            width,
            initial_indent=f"{name:{indent - 1}} ",
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
        typer.echo(text)


@config.command("show", epilog=example("config show 459810c9f189"))
@with_options
def config_show(source: ConfigSource, run: RunOfStage) -> None:
    """Print the resolved config of a run."""
    plan = source.plan()
    typer.echo(json.dumps(plan.runs[plan.key_of(run)].scientific(), indent=2))


@config.command("reference", epilog=example("config reference ."))
def config_reference(
    repository: Annotated[Path, typer.Argument(help="A checkout of this project.")] = Path("."),
) -> None:
    """Write docs/config.md and workflow/schemas/*.json from the code."""
    from clip4vla.common.files import write_json, write_text
    from clip4vla.config.reference import markdown, schemas

    if not (repository / "workflow" / "Snakefile").is_file():
        raise UserError(
            f"{repository}: not a checkout of this project. Fix: name the folder of one"
        )
    write_text(repository / "docs" / "config.md", markdown())
    for name, schema in schemas().items():
        write_json(repository / "workflow" / "schemas" / name, schema)


@app.command(epilog=example("train 459810c9f189 --threads 4"))
@with_options
def train(
    source: ConfigSource,
    hardware: ReadingHardware,
    run: RunOfStage,
    max_seconds: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="Save and stop (exit 75) before this many seconds."),
    ] = None,
) -> None:
    """Pre-train or fine-tune one run. It can be interrupted at any time and resumes."""
    from clip4vla.stages import runs as stage

    stage.train(source.plan(), run, hardware, max_seconds)


@app.command("not-finite", epilog=example("not-finite runs/459810c9f189/not-finite-step-000012"))
def not_finite(
    folder: Annotated[Path, typer.Argument(help="runs/KEY/not-finite-step-...")],
) -> None:
    """Show the dump of a training whose loss or gradient was NaN or infinite."""
    from clip4vla.training.not_finite import show

    typer.echo(printable(show(folder)))


@app.command(epilog=example("launch 459810c9f189 --gpus-per-node 4"))
@with_options
def launch(
    source: ConfigSource,
    request: Request,
    run: RunOfStage,
    launcher: Annotated[
        str, typer.Option(help="local: on this machine. slurm: as one job on all nodes.")
    ] = "local",
) -> None:
    """Train one run on several GPUs or nodes, and wait for its end.

    Run again, it attaches to the Slurm job if that still exists, or resumes from the checkpoint.
    """
    from clip4vla.stages import runs as stage

    stage.launch(source.plan(), run, launcher, request)


@app.command(epilog=example("substitute 459810c9f189"))
@with_options
def substitute(source: ConfigSource, hardware: ReadingHardware, run: RunOfStage) -> None:
    """Find donors for silent clips: nearest vision neighbours with sound in the training split."""
    from clip4vla.stages import runs as stage

    stage.substitute(source.plan(), run, hardware)


@app.command(epilog=example("evaluate 459810c9f189"))
@with_options
def evaluate(source: ConfigSource, hardware: ReadingHardware, run: RunOfStage) -> None:
    """Score one checkpoint on one split; write metrics with N, coverage and the hash of the ids."""
    from clip4vla.stages import runs as stage

    stage.evaluate(source.plan(), run, hardware)


@app.command(epilog=example("sync --uri http://127.0.0.1:5000"))
@with_options
def sync(
    source: ConfigSource,
    uri: Annotated[
        str | None,
        typer.Option(help="http://HOST:PORT or sqlite:///PATH, instead of the config's."),
    ] = None,
) -> None:
    """Send the records of finished stages to MLflow; sending them again adds nothing.

    Live runs that lost their server are completed. The target is `tracking` in the config.
    """
    from clip4vla.stages import tracking as stage

    stage.sync(source.plan(), uri)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors of users and machines as one line; other errors keep their traceback."""
    try:
        yield
    except UserError as error:
        fail(str(error), EXIT_USER_ERROR)
    except RetryLater as error:
        fail(str(error), EXIT_RETRY)
    except ModuleNotFoundError as error:
        if (missing := not_installed(error)) is None:
            raise
        fail(str(missing), EXIT_USER_ERROR)
    except OSError as error:
        if error.errno is None:
            raise
        fail(on_one_line(describe_os_error(error)), exit_code_of(error))


def fail(message: str, code: int) -> None:
    """Print a message and exit."""
    for line in message.split("\n"):
        print(f"clip4vla: {printable(line)}", file=sys.stderr)
    raise SystemExit(code)


def main(arguments: list[str] | None = None) -> Any:
    """Run the `clip4vla` command."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    # Pydantic would search every installed package for plugins, of which we need none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _open_standard_streams()
    # Output that is redirected to a file is UTF-8, whatever the locale.
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    given = sys.argv[1:] if arguments is None else arguments
    if not sys.stderr.isatty() and COMPLETING not in os.environ:
        _print_command(given)
    with one_line_errors():
        _refuse_empty(given)
        return app(args=given)


def _refuse_empty(arguments: list[str]) -> None:
    """Raise UserError for an empty argument, such as an unset variable: a path would be `.`.

    Options of `launch` are resources of a profile, which may be empty.
    """
    if arguments[:1] == ["launch"]:
        return
    for before, argument in pairwise(["clip4vla", *arguments]):
        if re.fullmatch(r"--[\w-]+=", argument):
            place = argument[:-1]
        elif not argument:
            place = before if before[:1] == "-" else f"the argument after {before}"
        else:
            continue
        raise UserError(f"{place}: empty. Fix: give a value, or leave it out")


def _open_standard_streams() -> None:
    """Replace closed standard streams (`clip4vla ... >&-`) by the null device.

    Otherwise the next opened file gets their number, and libraries write messages into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _print_command(arguments: list[str]) -> None:
    """Print the command to run the same by hand, the first line of every log."""
    names = ("CLIP4VLA_CONFIG", "CLIP4VLA_SET")
    values = [f"{name}={shlex.quote(os.environ[name])}" for name in names if name in os.environ]
    line = shlex.join(["clip4vla", *arguments])
    # Hides passwords; hf://OWNER/NAME@REVISION has none.
    shown = re.sub(r"(?<!\bhf)://\S*@", "://...@", " ".join(["$", *values, line]))
    print(printable(shown), file=sys.stderr, flush=True)
