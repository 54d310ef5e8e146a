"""What is known of a stage beside its record: names and links, which may change at any time."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clip4vla.common.files import sha256_of, sole_owner, write_text

RUN_ID = "mlflow_run_id"


@dataclass(frozen=True)
class Context:
    """Of one stage.

    name: readable; tags: of the rows of tables that need it; row: `table/row` of its parent run;
    state: the folder of its attempts, its curve with times of day and its MLflow run id.
    """

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    row: str | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Target:
    """Where runs go. `locks`: a folder that all jobs of the working directory share.

    artifacts: of an sqlite store (a server has its own). owner: of a server that others use too,
    only runs with this tag `workspace` are looked at, so that nobody's run is ever replaced.
    """

    uri: str
    experiment: str
    locks: Path
    artifacts: Path | None = None
    owner: str | None = None

    @contextmanager
    def claim(self, *names: str) -> Iterator[None]:
        """Be the only one who writes the run of a stage: else two would make it twice."""
        folder = self.locks / sha256_of("\n".join((self.uri, *names)))[:16]
        with sole_owner(folder, notify=lambda message: None):  # it is a matter of seconds
            yield


def workspace(runs: Path) -> str:
    """The random name of a working directory, made on first use; it stays when that is moved."""
    path = runs / "workspace"
    with sole_owner(runs):
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        return path.read_text(encoding="utf-8").strip()


def read_run_id(state: Path | None) -> str | None:
    """The MLflow run that a stage has had on a server."""
    try:
        return (state / RUN_ID).read_text(encoding="utf-8").strip() if state else None
    except FileNotFoundError:
        return None


def write_run_id(state: Path | None, run_id: str) -> None:
    """Keep it, whole or not at all."""
    if state is not None:
        write_text(state / RUN_ID, run_id + "\n")
