"""Experiments and runs of an MLflow store, which is a server or an sqlite file."""

import contextlib
import re
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import whole_file
from clip4vla.tracking.context import ROW, Target
from clip4vla.tracking.server import check_server, quiet_mlflow
from clip4vla.tracking.views import experiment_tags, is_view

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Experiment, Run

SQLITE = "sqlite:///"
PARENT = "mlflow.parentRunId"
COMPLETE = "record_sha256"  # tag that is set last
SUPERSEDED = "superseded"  # tag of a run that an edit of the config replaced
OWNER = "workspace"
LOCKED_SECONDS = 120.0  # longest wait for an sqlite store that another program locks
TRIES = 5  # of a request beside jobs that write the same
# As PostgreSQL (SQL Server, too), MySQL and sqlite say that another job wrote a row first, and two
# of them that it could not wait for ours.
CONFLICT = re.compile("duplicate key|Duplicate entry|UNIQUE constraint|[Dd]eadlock")


class Store:
    """Client of one store; writing a run needs its claim (`Target.claim`)."""

    def __init__(self, target: Target, retries: int = 3):
        self.mlflow = quiet_mlflow(retries)
        self.target = target
        if target.uri.startswith(SQLITE):
            _upgrade(Path(target.uri.removeprefix(SQLITE)))
        else:
            check_server(target.uri)
        self.client = self.mlflow.MlflowClient(tracking_uri=target.uri)
        self.experiments: dict[str, str] = {}

    def experiment(self, kind: str) -> str:
        """Return the id of the experiment of a kind; create it if it is missing."""
        if kind not in self.experiments:
            name = f"{self.target.experiment}/{kind}"
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                experiment = self._create_experiment(name, kind)
            if experiment.lifecycle_stage == "deleted":  # its name cannot be used twice
                self._restore_experiment(experiment.experiment_id)
            for tag, value in experiment_tags(kind, experiment.experiment_id).items():
                if tag not in experiment.tags or (is_view(tag) and experiment.tags[tag] != value):
                    self._insert("set_experiment_tag", experiment.experiment_id, tag, value)
            self.experiments[kind] = experiment.experiment_id
        return self.experiments[kind]

    def _create_experiment(self, name: str, kind: str) -> "Experiment":
        folder = self.target.artifacts
        location = None if folder is None else (folder / kind).as_uri()
        try:
            self.client.create_experiment(name, location)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # otherwise another job was faster
        return self.client.get_experiment_by_name(name)

    def _restore_experiment(self, experiment_id: str) -> None:
        try:
            self.client.restore_experiment(experiment_id)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise  # otherwise another job was faster

    def _insert(self, request: str, *arguments: Any) -> None:
        """Make a request of MLflow's client again if another job inserts the same row just then.

        MLflow looks for the row and inserts it if it is missing. Where two do both at once, the
        database refuses the second, whose request changes nothing and fails (seen with PostgreSQL).
        """
        for left in reversed(range(TRIES)):
            try:
                getattr(self.client, request)(*arguments)
                return
            except self.mlflow.exceptions.MlflowException as error:
                if not left or not CONFLICT.search(str(error)):
                    raise

    def runs(self, text: str = "", deleted: bool = False) -> list["Run"]:
        """Return our runs, oldest first; restore experiments that somebody deleted.

        text: MLflow's filter; deleted: return deleted runs instead.
        """
        view, start = self.mlflow.entities.ViewType.ALL, f"{self.target.experiment}/"
        every = self.client.search_experiments(view, filter_string=f"name LIKE '{start}%'")
        kinds = [item.name.removeprefix(start) for item in every if item.name.startswith(start)]
        ids = [self.experiment(kind) for kind in kinds]
        return self._search(ids, text, deleted) if ids else []

    def runs_of(self, kind: str, key: str) -> list["Run"]:
        """Return our runs of one stage, oldest first."""
        return self._search([self.experiment(kind)], f"tags.run_key = '{key}'")

    def row(self, kind: str, row: str) -> str:
        """Return the id of the parent run of a row's seeds; create it if it is missing."""
        with self.target.claim("row", kind, row):
            runs = self._search([self.experiment(kind)], f"tags.{ROW} = '{row}'")
            if runs:
                return runs[0].info.run_id
            created = self.create(kind, row, {ROW: row, "stage": kind})
            self.client.set_terminated(created.info.run_id, "FINISHED")
            return created.info.run_id

    def create(self, kind: str, name: str, tags: dict[str, str], start: int | None = None) -> "Run":
        """Create a run and return it. start: in ms; None: now."""
        owned = {**tags, OWNER: self.target.owner} if self.target.owner else tags
        start = start or int(time.time() * 1000)
        return self.client.create_run(self.experiment(kind), start, owned, name)

    def get(self, run_id: str) -> "Run | None":
        """Return a run by its id; None if the store lacks it or somebody deleted it."""
        try:
            run = self.client.get_run(run_id)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return None if run.info.lifecycle_stage == "deleted" else run

    def delete(self, run: "Run") -> None:
        """Delete a run and its models; MLflow can restore them until `mlflow gc`."""
        own = f"source_run_id = '{run.info.run_id}'"
        for model in self.client.search_logged_models([run.info.experiment_id], own):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)

    def add_model(self, run: "Run", name: str, tags: dict[str, str]) -> str:
        """Register weights, which stay in their place, as the output of a run; return their id."""
        info = run.info
        model_id = self.model_of(run)
        if model_id is None:
            model_id = self._create_model(run, name, tags)
        self.show_models(self.client.get_run(info.run_id), [model_id])
        return model_id

    def log_datasets(self, run_id: str, inputs: "list[DatasetInput]") -> None:
        """Log the datasets that a run read; runs of an experiment share a dataset's entry."""
        if inputs:
            self._insert("log_inputs", run_id, inputs)

    def link_models(self, run_id: str, models: list[str]) -> None:
        """Log the models that a run read, once those that it made are logged.

        A run that made no model, such as an evaluation, has those that it read as outputs, too, so
        that a search for runs finds its models in one place. MLflow's pages (3.17) list a model in
        its own experiment alone, and in the table of runs beside the run that made it.
        """
        if not models:
            return
        run, models = self.client.get_run(run_id), list(dict.fromkeys(models))
        read, logged = models_read(run), self.mlflow.entities.LoggedModelInput
        if new := [logged(model) for model in models if model not in read]:
            self.client.log_inputs(run_id, models=new)
        if not models_shown(run):
            self.show_models(run, models)

    def show_models(self, run: "Run", models: list[str]) -> None:
        """Log models as outputs of a run, unless it has them."""
        output = self.mlflow.entities.LoggedModelOutput
        shown = models_shown(run)
        new = [output(model, step=0) for model in dict.fromkeys(models) if model not in shown]
        if new:
            self.client.log_outputs(run.info.run_id, new)

    def model_of(self, run: "Run") -> str | None:
        """Return the id of the model that a run made; delete one that is incomplete."""
        own = f"source_run_id = '{run.info.run_id}'"
        for model in self.client.search_logged_models([run.info.experiment_id], own):
            if str(model.status) == "READY":
                return model.model_id
            self.client.delete_logged_model(model.model_id)  # a job was killed before the end
        return None

    def _create_model(self, run: "Run", name: str, tags: dict[str, str]) -> str:
        info = run.info
        before = self.mlflow.get_tracking_uri() if self.mlflow.is_tracking_uri_set() else None
        self.mlflow.set_tracking_uri(self.target.uri)
        try:
            return self.mlflow.create_external_model(
                name=name, source_run_id=info.run_id, experiment_id=info.experiment_id, tags=tags
            ).model_id
        finally:
            self.mlflow.set_tracking_uri(before)

    def _search(self, experiments: list[str], text: str = "", deleted: bool = False) -> list["Run"]:
        view = self.mlflow.entities.ViewType
        if self.target.owner:
            own = f"tags.{OWNER} = '{self.target.owner}'"
            text = f"{text} and {own}" if text else own
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                experiments,
                text,
                view.DELETED_ONLY if deleted else view.ACTIVE_ONLY,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs


def models_shown(run: "Run") -> list[str]:
    """Return the ids of the models that a run has as outputs, oldest first: see `link_models`."""
    return [model.model_id for model in (run.outputs.model_outputs if run.outputs else [])]


def models_read(run: "Run") -> list[str]:
    """Return the ids of the models that a run has as inputs."""
    return [model.model_id for model in (run.inputs.model_inputs if run.inputs else [])]


def _upgrade(path: Path) -> None:
    """Create the store, or migrate it to the schema of this mlflow, as `mlflow db upgrade` does.

    A new store appears complete or not at all: a half-migrated file could never be opened again.
    UserError for a corrupt store; RetryLater for one that another program keeps locked.
    """
    from mlflow.db import upgrade

    assert upgrade.callback is not None

    if path.exists():
        _wait_until_free(path)
        _check_whole(path)
        upgrade.callback(f"{SQLITE}{path}")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # a killed sync left them
            left.unlink()
        with whole_file(path) as temporary:
            temporary.touch()  # its OSError names the place; sqlalchemy's error is a page long
            upgrade.callback(f"{SQLITE}{temporary}")


def _wait_until_free(path: Path) -> None:
    """Wait for a bounded time while another program, such as MLflow's UI, locks the store."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
    except sqlite3.DatabaseError as error:
        if is_locked(error):
            raise locked(f"{SQLITE}{path}") from None
        # corrupt, or cannot be opened: the next step reports it


def is_locked(error: Exception) -> bool:
    """Return whether an error of sqlite, or of MLflow's layers above it, means a locked store."""
    return re.search(r"database( table)? is locked", str(error)) is not None


def locked(uri: str) -> RetryLater:
    """Return the error for a locked store."""
    return RetryLater(
        f"{uri}: another program keeps the store locked. Fix: end it (`fuser` names it), then run "
        "`clip4vla sync` again; runs lose nothing"
    )


def _check_whole(path: Path) -> None:
    """Raise UserError for a file that is not sqlite, and for a corrupt one."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as store:
            corrupt = store.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.OperationalError:  # locked, or cannot be opened: MLflow waits, or reports it
        corrupt = False
    except sqlite3.DatabaseError:
        corrupt = True
    if corrupt:
        raise UserError(
            f"{path}: corrupt or truncated sqlite store. Fix: move it away and run "
            "`clip4vla sync`, which fills a new one from the files"
        )
