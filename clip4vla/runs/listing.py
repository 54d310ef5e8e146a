"""The runs that a working folder holds: listed, shown and compared."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.run import read_run
from clip4vla.cost.estimate import is_done
from clip4vla.results.metrics_file import read_run_metrics
from clip4vla.runs.summaries import numbers
from clip4vla.tracking.attempts import read_attempts
from clip4vla.tracking.recorded import check_recorded

KEY = re.compile(r"[0-9a-f]{12}")
METRICS = "metrics.json"
SUMMARIES = (METRICS, "train.json", "substitute.json")
HEADLINES = ("t2v_R1", "t2a_R1", "CIDEr", "accuracy")  # of an evaluation, the first that it has
Known = Callable[[], Plan] | None  # makes the plan, where that is needed


@dataclass(frozen=True)
class Listed:
    """One run: what it is, how far it is, and its first number."""

    key: str
    stage: str
    state: str
    number: str
    name: str


def list_runs(plan: Plan) -> list[Listed]:
    """Every run of the plan, by stage and row."""
    names = plan.names()
    found = []
    for stage in ("pretrain", "substitute", "finetune", "evaluate"):
        for key in sorted(plan.stage(stage), key=lambda key: names.get(key, "")):
            state = state_of(stage, key)
            found.append(Listed(key, stage, state, headline(key), names.get(key, "")))
    return found


def show(key: str, known: Known = None) -> dict[str, Any]:
    """Config, state, numbers and attempts of a run that is here.

    The config of one that is not finished is that of the plan that `known` makes. UserError when
    the run is not here, nobody knows its config, or a file of it is damaged.
    """
    folder, state = _folder(key), Path(layout.state_dir(key))
    config = _config(key, known)
    return {
        "config": config,
        "state": state_of(config["stage"], key),
        "numbers": _numbers(folder),
        "attempts": [*read_attempts(state), *_without_end(state)],
        "files": sorted(path.name for path in folder.glob("*") if path.is_file()),
    }


def differences(
    one: str, two: str, known: Known = None
) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """What differs between two runs: of the config, and numbers that both have; by dotted name.

    `known` and UserError: see `show`.
    """
    folders = [_folder(key) for key in (one, two)]
    configs = [_flat(_config(key, known)) for key in (one, two)]
    keys = sorted(set(configs[0]) | set(configs[1]))
    absent = "—"
    settings = {key: tuple(config.get(key, absent) for config in configs) for key in keys}
    found = [_numbers(folder) for folder in folders]
    shared = [name for name in found[0] if name in found[1]]
    return (
        {name: values for name, values in settings.items() if values[0] != values[1]},
        {name: (found[0][name], found[1][name]) for name in shared},
    )


def state_of(stage: str, key: str) -> str:
    """How far a run of that stage is, in words: `done`, or see `progress`."""
    return "done" if is_done(stage, key) else progress(key)


def progress(key: str) -> str:
    """How far a run is that is not done, in words."""
    folders = Path(layout.state_dir(key)), Path(layout.result_dir(key))
    steps = [int(path.stem[5:]) for path in folders[0].glob("state/step-*.pt")]
    if steps:
        return f"saved at step {max(steps)}"
    return "begun" if any(folder.is_dir() for folder in folders) else "to do"


def _folder(key: str) -> Path:
    """Where the run's outputs are or will be. UserError when there is nothing of it."""
    folders = Path(layout.result_dir(key)), Path(layout.state_dir(key))
    if not KEY.fullmatch(key) or not any(folder.is_dir() for folder in folders):
        places = " and ".join(str(folder.parent) for folder in folders)
        raise UserError(f"run {key!r} is not here ({places}); `clip4vla runs ls` lists them")
    return folders[0]


def _config(key: str, known: Known) -> dict[str, Any]:
    path = Path(layout.result_dir(key), "config.json")
    if path.is_file():
        return read_run(path, key).scientific()
    planned = known().runs if known else {}
    if key not in planned:
        raise UserError(
            f"{path}: not there: the run is not finished, and no row of the config has its key; "
            "give its config with -c"
        )
    return planned[key].scientific()


def _without_end(state: Path) -> list[dict[str, Any]]:
    """The attempt that has not written its line: it is under way, or was killed."""
    try:
        return [read_json(state / "attempt.json") | {"end": "under way, or killed"}]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def _numbers(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SUMMARIES:
        if (folder / name).is_file():
            found |= numbers(_summary(folder / name))
    return found


def _summary(path: Path) -> dict[str, Any]:
    if path.name == METRICS:
        return read_run_metrics(path.parent, path.parent.name)[0].model_dump()
    try:
        summary = dict(read_json(path))
        check_recorded(path, path.parent.name)
        return summary
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not what a run leaves ({error}); delete it and run the stage again"
        ) from None


def headline(key: str) -> str:
    """Return the first number of a finished evaluation; "" for any other run."""
    path = Path(layout.result_dir(key), METRICS)
    if not path.is_file():
        return ""
    try:
        summary, _ = read_run_metrics(path.parent, key)
    except UserError:  # one file hides no other run; `runs show` says what is wrong with it
        return f"{METRICS} is damaged"
    if gallery := summary.galleries.get(summary.gallery):
        for name in HEADLINES:
            if name in gallery.metrics:
                return f"{name} {gallery.metrics[name]:.1f} (N {gallery.n_gallery})"
    return ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found
