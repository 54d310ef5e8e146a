"""Options that many commands share, and the plan that they select."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip4vla.common.errors import UserError

if TYPE_CHECKING:
    from clip4vla.config.plan import Plan

DEFAULT_CONFIG = [Path("config.yaml")]
SET_EXAMPLE = 'pass an object such as {"targets": ["table5"]}'


def _bases() -> list[Path]:
    """Return the existing base configs: of this folder, a checkout around it, the installed one."""
    here = Path.cwd()
    outer = [*here.parents, Path(__file__).parents[2]]
    checkouts = [folder for folder in (here, *outer) if (folder / "workflow/Snakefile").is_file()]
    candidates = [folder / "config.yaml" for folder in (here, *checkouts)]
    return [path for path in candidates if path.is_file()]


def _with_base(
    context: typer.Context, parameter: typer.CallbackParam, files: list[Path]
) -> list[Path]:
    """Put the base config before the overrides, as the workflow does for its --configfile.

    The environment variable, which the workflow sets for its jobs, includes the base already.
    """
    source = context.get_parameter_source(parameter.name or "")
    origin = source.name if source else "DEFAULT"  # by name: newer typers bundle their own click
    bases = _bases()
    if origin == "ENVIRONMENT" or not bases:
        return files
    if origin == "DEFAULT":
        return DEFAULT_CONFIG if DEFAULT_CONFIG[0].is_file() else bases[:1]
    if any(path.exists() and path.samefile(base) for path in files for base in bases):
        return files
    return [*bases[:1], *files]


ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        envvar="CLIP4VLA_CONFIG",
        callback=_with_base,
        help="Overrides of the base config.yaml, which is found automatically; later files win.",
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


def overrides_of(values: str | None) -> dict[str, Any]:
    """Return the overrides of `--set`."""
    try:
        overrides = json.loads(values) if values else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--set: not JSON ({error}). Fix: {SET_EXAMPLE}") from None
    if not isinstance(overrides, dict):
        shown = (values or "").strip()
        raise UserError(f"--set: {shown} is not a JSON object. Fix: {SET_EXAMPLE}")
    return overrides


def plan_of(files: list[Path], values: str | None) -> "Plan":
    """Make the plan of these config files for a job.

    It reads no other files, so that a requeued training resumes whatever happened to paper.tsv.
    """
    from clip4vla.config.planner import make_plan

    return make_plan(files, overrides_of(values))


def checked_plan_of(files: list[Path], values: str | None) -> "Plan":
    """Make the same plan, and check names that need other files, before anything runs."""
    from clip4vla.stages.planning import checked_plan

    return checked_plan(files, overrides_of(values))
