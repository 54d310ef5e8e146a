"""Options that many commands share, and the plan that they select."""

import contextlib
import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from clip4vla.cli.place import above_base, base_files, moved, recorded_values
from clip4vla.common.errors import UserError
from clip4vla.common.options import option

if TYPE_CHECKING:
    from clip4vla.config.plan import Plan
    from clip4vla.config.table import Table

DEFAULT_CONFIG = [Path("config.yaml")]
SET_EXAMPLE = 'pass an object such as {"targets": ["table5"]}'


def example(command: str) -> str:
    """Return the last line of a help page: a call to copy."""
    return f"Example: clip4vla {command}"


def with_base(
    context: typer.Context, parameter: typer.CallbackParam, files: list[Path]
) -> list[Path]:
    """Put the base config before the overrides, as the workflow does for its --configfile.

    The environment variable, which the workflow sets for its jobs, includes the base already.
    """
    source = context.get_parameter_source(parameter.name or "")
    origin = source.name if source else "DEFAULT"  # by name: newer typers bundle their own click
    if origin == "ENVIRONMENT":
        return files
    return base_files() if origin == "DEFAULT" else above_base(files)


def _with_recorded(
    context: typer.Context, parameter: typer.CallbackParam, values: str | None
) -> str | None:
    """Return the overrides; without any, those of the last run whose config is taken, too."""
    source = context.get_parameter_source("config_files")
    if values is None and (source is None or source.name == "DEFAULT"):
        return recorded_values()
    return values


def above_zero(value: float | None) -> float | None:
    """Return the value of an option. BadParameter unless it is finite and above 0.

    A range alone has no open end, and lets NaN pass in older typers.
    """
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a finite number above 0.")
    return value


Version = Annotated[str, typer.Argument(help="Dataset version, such as demo-v1-0a1b2c.")]
CacheId = Annotated[str, typer.Argument(help="Cache id, 8 hex digits.")]
Shard = Annotated[int, typer.Argument(min=0, help="Shard number.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TABLE = "A table of the config's targets, such as table5."
RUN = "Run key, 12 hex digits, or row, such as table5/scratch/msrvtt/s0; see `clip4vla runs ls`."
STAGED = "The stage before a row chooses among its runs: finetune:table5/scratch/msrvtt/s0."


def completed_by(
    names: Callable[["ConfigSource"], Iterable[str]],
) -> Callable[[typer.Context, str], list[str]]:
    """Return a function that completes an argument in a shell by names of the config."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        try:
            files = context.params.get("config_files") or base_files()
            known = list(names(ConfigSource(files, context.params.get("values"))))
        except (UserError, OSError):  # a shell shows no message
            return []
        return [name for name in dict.fromkeys(known) if name.startswith(incomplete)]

    return complete


def _targets(source: "ConfigSource") -> list[str]:
    from clip4vla.config.targets import ROW, targets

    names = targets(source.tables())
    return [*names, *(name.removeprefix(ROW) for name in names)]


def _runs(source: "ConfigSource") -> list[str]:
    plan = source.plan()
    return [*(plan.names()[key] for key in plan.stage("evaluate")), *plan.runs]


def path_or_name(value: str) -> str:
    """Return the absolute path of an existing file or folder: a command may move (`moved`)."""
    return str(Path(value).absolute()) if Path(value).exists() else value


Target = Annotated[
    str,
    typer.Argument(
        help="A table, TABLE/ROW, a run key, data or pretrain.",
        autocompletion=completed_by(_targets),
    ),
]
of_tables = completed_by(lambda source: source.tables())
of_runs = completed_by(_runs)
of_datasets = completed_by(lambda source: source.plan().versions.values())
TableName = Annotated[str, typer.Argument(help=TABLE, autocompletion=of_tables)]
Run = Annotated[str, typer.Argument(help=RUN, autocompletion=of_runs)]
RunOfStage = Annotated[str, typer.Argument(help=f"{RUN} {STAGED}", autocompletion=of_runs)]
RunOrFolder = Annotated[
    str,
    typer.Argument(
        help=f"{RUN} Or the folder of a run.", callback=path_or_name, autocompletion=of_runs
    ),
]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Show each dataclass among a command's parameters as the options of its fields."""
    signature, bundles, parameters = inspect.signature(command, eval_str=True), {}, []
    for name, parameter in signature.parameters.items():
        bundle = parameter.annotation
        if is_dataclass(bundle) and isinstance(bundle, type):
            bundles[name] = bundle
            parameters += _options_of(bundle)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, bundle in bundles.items():
            shown = [field.name for field in fields(bundle) if "help" in field.metadata]
            given[name] = bundle(**{field: given.pop(field) for field in shown})
        with moved(given) if ConfigSource in bundles.values() else contextlib.nullcontext():
            command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(bundle: type[Any]) -> list[inspect.Parameter]:
    """Return the parameters for the fields of a dataclass that are `option`s."""
    types, parameters = get_type_hints(bundle), []
    for field in fields(bundle):
        about = dict(field.metadata)
        if "help" in about:
            default = field.default
            if callable(field.default_factory):
                default = field.default_factory()
            shown = typer.Option(*about.pop("flags", ()), **about)
            parameter = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[types[field.name], shown],
            )
            parameters.append(parameter)
    return parameters


@dataclass(frozen=True)
class ConfigSource:
    """The config that a command reads."""

    config_files: list[Path] = option(
        DEFAULT_CONFIG,
        "Overrides of the base config.yaml, which is found automatically; later files win.",
        flags=("--config", "-c"),
        envvar="CLIP4VLA_CONFIG",
        callback=with_base,
    )
    values: str | None = option(
        None,
        'Overrides as JSON, such as {"targets": ["table5"]}.',
        flags=("--set",),
        envvar="CLIP4VLA_SET",
        callback=_with_recorded,
    )

    @property
    def overrides(self) -> dict[str, Any]:
        """Return the overrides of `--set`."""
        return overrides_of(self.values)

    def plan(self) -> "Plan":
        """Make the plan for a job.

        It reads no other files, so that a requeued training resumes whatever happened to paper.tsv.
        """
        from clip4vla.config.planner import make_plan

        return make_plan(self.config_files, self.overrides)

    def checked_plan(self) -> "Plan":
        """Make the same plan, and check names that need other files, before anything runs."""
        from clip4vla.stages.planning import checked_plan

        return checked_plan(self.config_files, self.overrides)

    def part(self, target: str) -> "Plan":
        """Make the part of the checked plan for a target; refuse an unknown one at once."""
        from clip4vla.config.targets import check_target

        check_target(self.tables(), target)
        from clip4vla.config.part import narrowed

        return narrowed(self.checked_plan(), target)

    def tables(self) -> "dict[str, Table]":
        """Read the tables of the config's targets. No row is expanded or checked."""
        from clip4vla.config.load import load_config
        from clip4vla.config.table import read_table

        config, _ = load_config(self.config_files, self.overrides)
        return {name: read_table(config.experiments, name)[0] for name in config.targets}


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
