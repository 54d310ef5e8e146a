"""Runs of a working folder: list, show and compare them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config import layout
from clip4vla.config.metrics import main_metric
from clip4vla.config.plan import Plan
from clip4vla.config.run import read_run
from clip4vla.config.sections import Modality
from clip4vla.results.metrics_file import read_run_metrics
from clip4vla.runs.summaries import numbers
from clip4vla.tracking.attempts import attempt_without_end, read_attempts
from clip4vla.tracking.recorded import check_recorded

METRICS = "metrics.json"
SUMMARIES = (METRICS, "train.json", "substitute.json")
Known = Callable[[], Plan] | None  # makes the plan, called only when needed


@dataclass(frozen=True)
class Listed:
    """One run with its state and headline number."""

    key: str
    stage: str
    state: str
    number: str
    name: str


def list_runs(plan: Plan) -> list[Listed]:
    """Return every run of the plan, by stage and row."""
    names = plan.names()
    runs = []
    for stage in layout.RUN_FILES:
        for key in sorted(plan.stage(stage), key=lambda key: names.get(key, "")):
            state = state_of(stage, key)
            run = Listed(
                key=key,
                stage=stage,
                state=state,
                number=headline(key),
                name=names.get(key, ""),
            )
            runs.append(run)
    return runs


def show(key: str, known: Known = None) -> dict[str, Any]:
    """Return config, state, numbers and attempts of a run of this working folder.

    The config of an unfinished run is taken from the plan that `known` makes. Raises UserError when
    the run has no outputs, its config is unknown, or one of its files is damaged.
    """
    folder, state = _folder(key), Path(layout.state_dir(key))
    config, attempts = _config(folder, known), read_attempts(state)
    if left := attempt_without_end(state):
        attempts.append(left | {"end": "under way, or killed"})
    return {
        "config": config,
        "state": state_of(config["stage"], key),
        "numbers": _numbers(folder),
        "attempts": attempts,
        "files": sorted(path.name for path in folder.glob("*") if path.is_file()),
    }


def differences(
    one: str, two: str, known: Known = None
) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Return the settings that differ between two runs, and the numbers of both, by dotted name.

    one, two: keys, or absolute paths of folders. `known` and UserError: see `show`.
    """
    folders = [Path(one) if Path(one).is_absolute() else _folder(one) for one in (one, two)]
    configs = [_flat(_config(folder, known)) for folder in folders]
    keys = sorted(set(configs[0]) | set(configs[1]))
    absent = "—"
    settings = {key: tuple(config.get(key, absent) for config in configs) for key in keys}
    first, second = (_numbers(folder) for folder in folders)
    return (
        {name: values for name, values in settings.items() if values[0] != values[1]},
        {name: (first[name], second[name]) for name in first if name in second},
    )


def state_of(stage: str, key: str) -> str:
    """Return the state of a run: `done`, or its `progress`."""
    return "done" if layout.is_done(stage, key) else progress(key)


def progress(key: str) -> str:
    """Describe the progress of a run that is not done."""
    folders = Path(layout.state_dir(key)), Path(layout.result_dir(key))
    steps = [int(path.stem[5:]) for path in folders[0].glob("state/step-*.pt")]
    if steps:
        return f"saved at step {max(steps)}"
    return "begun" if any(folder.is_dir() for folder in folders) else "to do"


def _folder(key: str) -> Path:
    """Return the folder of a run's outputs. UserError when it has neither outputs nor state."""
    folders = Path(layout.result_dir(key)), Path(layout.state_dir(key))
    if not layout.RUN_KEY.fullmatch(key) or not any(folder.is_dir() for folder in folders):
        places = " and ".join(str(folder.parent) for folder in folders)
        raise UserError(
            f"run {key!r}: no outputs found ({places}). Fix: give a key of `clip4vla runs ls`"
        )
    return folders[0]


def _key_in(folder: Path) -> str | None:
    """Return the key that a folder is named after; None for a folder of another name."""
    return folder.name if layout.RUN_KEY.fullmatch(folder.name) else None


def _config(folder: Path, known: Known) -> dict[str, Any]:
    path, key = folder / "config.json", _key_in(folder)
    if path.is_file():
        return read_run(path, key or "").scientific()
    planned = known().runs if known else {}
    if key is None or key not in planned:
        raise UserError(
            f"{path}: missing: the run is not finished, and no row of the config has its key. Fix: "
            "pass its config with -c"
        )
    return planned[key].scientific()


def _numbers(folder: Path) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in SUMMARIES:
        if (folder / name).is_file():
            values |= numbers(_summary(folder / name))
    return values


def _summary(path: Path) -> dict[str, Any]:
    key = _key_in(path.parent)
    if path.name == METRICS:
        return read_run_metrics(path.parent, key)[0].model_dump()
    try:
        summary = dict(read_json(path))
        check_recorded(path, key)
        return summary
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not the summary of a run ({error}). Fix: {layout.remake(path)}"
        ) from None


def headline(key: str) -> str:
    """Return the first number of a finished evaluation; "" for any other run."""
    path = Path(layout.result_dir(key), METRICS)
    if not path.is_file():
        return ""
    try:
        summary, _ = read_run_metrics(path.parent, key)
    except UserError:  # list the other runs all the same; `runs show` names the problem
        return f"{METRICS} is damaged"
    if gallery := summary.galleries.get(summary.gallery):
        for modality in get_args(Modality):
            name = main_metric(summary.task, [modality], summary.query or "text")
            if name in gallery.metrics:
                return f"{name} {gallery.metrics[name]:.1f} (N {gallery.n_gallery})"
    return ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
