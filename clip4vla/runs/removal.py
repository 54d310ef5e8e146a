"""Runs that no row uses: describe and remove them."""

import fcntl
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.config.run import read_run, sources_of
from clip4vla.runs.listing import Listed, headline, progress
from clip4vla.tracking.attempts import read_attempts

UNKNOWN = "?"


@dataclass(frozen=True)
class Unused:
    """A run that no row uses.

    about: dataset versions and seed; hours: wall-clock time of all attempts that ended; size:
    bytes; changed: seconds since 1970.
    """

    key: str
    stage: str
    state: str
    about: str
    hours: float
    size: int
    changed: float


def unused(used: Collection[str]) -> list[Unused]:
    """Return every run of the working folder that is not among the `used` keys."""
    return [_described(key) for key in _here() if key not in used]


def others_here(plan: Plan) -> list[Listed]:
    """Return the runs on disk that no row of the plan needs, of other targets or configs."""
    return [
        Listed(
            key=run.key,
            stage=run.stage,
            state=run.state,
            number=headline(run.key),
            name="(not in this config)",
        )
        for run in unused(plan.runs)
    ]


def remove(key: str) -> None:
    """Remove a run's outputs and state. Raises UserError while a process is training it."""
    state = Path(layout.state_dir(key))
    if state.is_dir():
        with open(state / ".lock", "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{state}: a process is training this run. Fix: stop it first"
                ) from None
            shutil.rmtree(state)
    shutil.rmtree(layout.result_dir(key), ignore_errors=True)


def _here() -> list[str]:
    places = [Path(layout.result_dir("x")).parent, Path(layout.state_dir("x")).parent]
    folders = [path for place in places if place.is_dir() for path in place.iterdir()]
    return sorted(
        {path.name for path in folders if path.is_dir() and layout.RUN_KEY.fullmatch(path.name)}
    )


def _described(key: str) -> Unused:
    folders = [Path(layout.result_dir(key)), Path(layout.state_dir(key))]
    paths = [path for folder in folders if folder.is_dir() for path in (folder, *folder.rglob("*"))]
    stats = [path.lstat() for path in paths]
    size = sum(stat.st_size for path, stat in zip(paths, stats, strict=True) if path.is_file())
    stage, about = UNKNOWN, UNKNOWN
    config = folders[0] / "config.json"
    if config.is_file():
        try:
            run = read_run(config, config.parent.name)
        except UserError:
            about = f"{config.name} is of another version, or damaged"
        else:
            stage, seed = run.stage, getattr(run, "seed", None)
            read = dict.fromkeys(source.dataset for source in sources_of(run))
            about = ", ".join([*read, *([] if seed is None else [f"seed {seed}"])])
    changed = max(stat.st_mtime for stat in stats)
    done = any(layout.is_done(stage, key) for stage in layout.RUN_FILES)
    state = "done" if done else progress(key)
    hours = sum(row["seconds"] for row in read_attempts(folders[1])) / 3600
    return Unused(
        key=key,
        stage=stage,
        state=state,
        about=about,
        hours=hours,
        size=size,
        changed=changed,
    )
