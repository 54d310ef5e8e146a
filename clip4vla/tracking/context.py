"""Context of a stage in MLflow: names and links, which may change although its record does not."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clip4vla.common.files import sha256_of, sole_owner, write_text

RUN_ID = "mlflow_run_id"
ROW = "row_of_seeds"  # tag of a parent run: table/row/dataset
PLACE = ("table", "row", "dataset")  # tags of every run that a row needs


@dataclass(frozen=True)
class Context:
    """Context of one stage.

    name: of the MLflow run; tags: of the table rows that need it; rows: every `table/row/dataset`
    whose seed it is, the first one is its parent run; state: folder with its attempts, its curve
    with times, and its MLflow run id; began: a file that is written when the stage begins, for
    stages that note no attempts.
    """

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    state: Path | None = None
    began: Path | None = None

    @property
    def row(self) -> str | None:
        """Return the row of its parent run."""
        return self.rows[0] if self.rows else None


@dataclass(frozen=True)
class Target:
    """The store that runs are sent to.

    locks: a folder that all jobs of the working directory share. artifacts: folder of an sqlite
    store (a server has its own). owner: on a shared server, only runs with this tag `workspace` are
    read, so that nobody else's run is ever replaced.
    """

    uri: str
    experiment: str
    locks: Path
    artifacts: Path | None = None
    owner: str | None = None

    @contextmanager
    def claim(
        self, *names: str, notify: Callable[[str], None] = lambda message: None
    ) -> Iterator[None]:
        """Hold the lock on the run of a stage, so that no two processes create it.

        notify: told when another process holds it, where that may last longer than seconds.
        """
        folder = self.locks / sha256_of("\n".join((self.uri, *names)))[:16]
        with sole_owner(folder, notify):
            yield


def place(tags: Mapping[str, str]) -> str | None:
    """Return the `table/row/dataset` that a run is named by; None for a run of no row."""
    names = [tags[name] for name in PLACE if name in tags]
    return "/".join(names) if len(names) == len(PLACE) else None


def workspace(runs: Path) -> str:
    """Return the random name of a working directory, which it keeps when it is moved."""
    path = runs / "workspace"
    with sole_owner(runs):
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        return path.read_text(encoding="utf-8").strip()


def read_run_id(state: Path | None) -> str | None:
    """Return the id of the MLflow run that a stage has on a server, if any."""
    try:
        return (state / RUN_ID).read_text(encoding="utf-8").strip() if state else None
    except FileNotFoundError:
        return None


def write_run_id(state: Path | None, run_id: str) -> None:
    """Write the id of the MLflow run of a stage, atomically."""
    if state is not None:
        write_text(state / RUN_ID, run_id + "\n")
