"""The folder that a command is about, and its config, found from anywhere inside of it.

A project is a folder with a `config.yaml` beside a Snakefile of this workflow, or a checkout. An
output folder has the record of its last run (`config/recorded.py`), or Snakemake's own state.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json
from clip4vla.common.packaged import workflow_file
from clip4vla.config.layout import is_output
from clip4vla.config.recorded import RECORD, Recorded, recorded_config

CONFIG = Path("config.yaml")
SNAKEFILES = ("workflow/Snakefile", "Snakefile")
ENVIRONMENT = "CLIP4VLA_CONFIG"  # set by the workflow for its jobs, which stay where they are


def base_files() -> list[Path]:
    """Return the config files of a command without -c.

    They are the `config.yaml` of this folder, else that of the nearest project or of the last run
    in the nearest output folder around it, else the installed one. UserError for a damaged record.
    """
    if _is_base_here():
        return [CONFIG]
    if recorded := _recorded():
        return recorded.files
    return _bases()[:1] or [CONFIG]


def recorded_values() -> str | None:
    """Return the overrides of the last run, as JSON, where its config is taken."""
    recorded = None if _is_base_here() else _recorded()
    return canonical_json(recorded.values) if recorded and recorded.values else None


def above_base(files: list[Path]) -> list[Path]:
    """Return the files of -c with the base below them, unless it is one of them."""
    bases = _bases()
    if not bases or any(_same(file, base) for file in files for base in bases):
        return files
    return [*bases[:1], *files]


def folder() -> Path:
    """Return the folder whose outputs a command is about: this one, or the nearest around it."""
    here = Path.cwd()
    if _is_base_here() or (here / ".snakemake").is_dir():
        return here
    return next((place for place in (here, *here.parents) if _is_place(place)), here)


def own_file(path: Path | None) -> Path | None:
    """Return the value of an option that names a file to write. UserError for a rule's output.

    Snakemake would rerun all that depends on it.
    """
    if path is not None and path.is_file() and not in_a_job():
        place, whole = folder().resolve(), path.resolve()
        if whole.is_relative_to(place) and is_output(whole.relative_to(place)):
            raise UserError(f"{path}: an output of the workflow. Fix: name another file")
    return path


def in_a_job() -> bool:
    """Return whether a job of the workflow runs this command."""
    return ENVIRONMENT in os.environ


@contextlib.contextmanager
def moved(given: dict[str, Any]) -> Iterator[None]:
    """Run a command in its folder. Relative paths among its parameters keep their meaning."""
    here, place = Path.cwd(), folder()
    if place == here or in_a_job():
        yield
        return
    given |= {name: _absolute(value, here) for name, value in given.items()}
    with contextlib.chdir(place):
        yield


def _absolute(value: Any, here: Path) -> Any:
    match value:
        case Path():
            return here / value
        case list():
            return [_absolute(item, here) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        moved = {key: _absolute(item, here) for key, item in vars(value).items()}
        return replace(value, **{key: new for key, new in moved.items() if new != vars(value)[key]})
    return value


def _bases() -> list[Path]:
    """Return the existing base configs: of this folder, a project around it, the installed one."""
    here = Path.cwd()
    projects = [place for place in (here, *here.parents) if _is_project(place)]
    candidates = [*(place / CONFIG for place in projects), workflow_file("config.yaml")]
    own = [CONFIG] if _is_base_here() else []
    return [*own, *(path for path in candidates if path.is_file())]


def _is_base_here() -> bool:
    """Return whether this folder has a base; inside a project it is an override or a profile."""
    here = Path.cwd()
    return CONFIG.is_file() and (_is_project(here) or not any(map(_is_project, here.parents)))


def _recorded() -> Recorded | None:
    """Return the config of the last run, if the nearest place is an output folder alone."""
    place = folder()
    return None if _is_project(place) else recorded_config(place)


def _is_place(place: Path) -> bool:
    return (place / RECORD).is_file() or _is_project(place)


def _is_project(place: Path) -> bool:
    if not (place / CONFIG).is_file():
        return False
    if (place / SNAKEFILES[0]).is_file():
        return True
    own = place / SNAKEFILES[1]
    return own.is_file() and "clip4vla" in own.read_text(encoding="utf-8", errors="replace")


def _same(one: Path, two: Path) -> bool:
    return one.exists() and two.exists() and one.samefile(two)
