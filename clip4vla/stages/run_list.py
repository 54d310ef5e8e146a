"""The runs that a working folder holds: listed, shown, compared, and cleared away."""

import fcntl
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.run import read_run
from clip4vla.cost.estimate import is_done
from clip4vla.errors import UserError
from clip4vla.files import read_json
from clip4vla.stages.summaries import numbers

KEY = re.compile(r"[0-9a-f]{12}")
SUMMARIES = ("metrics.json", "train.json", "substitute.json")
HEADLINES = ("t2v_R1", "t2a_R1", "CIDEr", "accuracy")  # of an evaluation, the first that it has


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
            done = is_done(plan, key)
            state = "done" if done else _progress(key)
            found.append(Listed(key, stage, state, _headline(key), names.get(key, "")))
    return found


def unused(plan: Plan) -> list[tuple[str, int]]:
    """(key, bytes) of every run that is here and that no row of this config uses."""
    return [(key, _size(key)) for key in _here() if key not in plan.runs]


def remove(key: str) -> None:
    """Remove a run's outputs and state. UserError when a process works on it."""
    state = Path(layout.state_dir(key))
    if state.is_dir():
        with open(state / ".lock", "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{state}: a process trains this run; stop it first") from None
            shutil.rmtree(state)
    shutil.rmtree(layout.result_dir(key), ignore_errors=True)


def show(key: str) -> dict[str, Any]:
    """Config, numbers and attempts of a run that is here. UserError when it is not."""
    folder = _folder(key)
    attempts = Path(layout.state_dir(key), "attempts.jsonl")
    lines = attempts.read_text(encoding="utf-8").splitlines() if attempts.is_file() else []
    return {
        "config": _config(folder),
        "numbers": _numbers(folder),
        "attempts": [json.loads(line) for line in lines],
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
    }


def differences(one: str, two: str) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """What differs between two runs: of the config, and numbers that both have; by dotted name."""
    configs = [_flat(_config(_folder(key))) for key in (one, two)]
    keys = sorted(set(configs[0]) | set(configs[1]))
    absent = "—"
    settings = {key: tuple(config.get(key, absent) for config in configs) for key in keys}
    found = [_numbers(_folder(key)) for key in (one, two)]
    shared = [name for name in found[0] if name in found[1]]
    return (
        {name: values for name, values in settings.items() if values[0] != values[1]},
        {name: (found[0][name], found[1][name]) for name in shared},
    )


def _here() -> list[str]:
    places = [Path(layout.result_dir("x")).parent, Path(layout.state_dir("x")).parent]
    folders = [path for place in places if place.is_dir() for path in place.iterdir()]
    return sorted({path.name for path in folders if path.is_dir() and KEY.fullmatch(path.name)})


def _size(key: str) -> int:
    folders = Path(layout.result_dir(key)), Path(layout.state_dir(key))
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    return sum(path.lstat().st_size for path in files if path.is_file())


def _folder(key: str) -> Path:
    folder = Path(layout.result_dir(key))
    if not KEY.fullmatch(key) or not folder.is_dir():
        raise UserError(f"run {key!r} is not here ({folder.parent}); `clip4vla runs ls` lists them")
    return folder


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: not there: the run is not finished")
    return read_run(path).scientific()


def _numbers(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SUMMARIES:
        if (folder / name).is_file():
            found |= numbers(read_json(folder / name))
    return found


def _headline(key: str) -> str:
    path = Path(layout.result_dir(key), "metrics.json")
    if not path.is_file():
        return ""
    summary = read_json(path)
    gallery = summary["galleries"].get(summary["gallery"], {})
    for name in HEADLINES:
        if name in gallery.get("metrics", {}):
            return f"{name} {gallery['metrics'][name]:.1f} (N {gallery['n_gallery']})"
    return ""


def _progress(key: str) -> str:
    folder = Path(layout.state_dir(key))
    steps = [int(path.stem[5:]) for path in folder.glob("state/step-*.pt")]
    if steps:
        return f"saved at step {max(steps)}"
    return "begun" if folder.is_dir() else "to do"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found
