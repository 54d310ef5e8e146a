"""The MLflow store that runs go to, a server or an sqlite file: its experiments and runs."""

import contextlib
import re
import sqlite3
import time
from pathlib import Path

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import whole_file
from clip4vla.tracking.context import Target
from clip4vla.tracking.server import check_server, quiet_mlflow

SQLITE = "sqlite:///"
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # the view that the UI opens
PARENT = "mlflow.parentRunId"
ROW = "row_of_seeds"  # tag of a parent run: table/row
OWNER = "workspace"
LOCKED_SECONDS = 120.0  # that an sqlite store may be locked by others


class Store:
    """Runs of one store, as long as nobody else writes them (`Target.claim`)."""

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
        """Id of the experiment of a kind; made when absent."""
        if kind not in self.experiments:
            name = f"{self.target.experiment}/{kind}"
            found = self.client.get_experiment_by_name(name)
            if found is None:
                found = self._create_experiment(name, kind)
            if found.lifecycle_stage == "deleted":  # its name cannot be used twice
                self.client.restore_experiment(found.experiment_id)
            self.experiments[kind] = found.experiment_id
        return self.experiments[kind]

    def _create_experiment(self, name: str, kind: str):
        folder = self.target.artifacts
        place = None if folder is None else (folder / kind).as_uri()
        try:
            self.client.create_experiment(name, place, tags=MODEL_TRAINING)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # else another job was faster
        return self.client.get_experiment_by_name(name)

    def runs(self) -> list:
        """Every run of ours, oldest first; experiments that somebody deleted are restored."""
        view, start = self.mlflow.entities.ViewType.ALL, f"{self.target.experiment}/"
        every = self.client.search_experiments(view, filter_string=f"name LIKE '{start}%'")
        kinds = [item.name.removeprefix(start) for item in every if item.name.startswith(start)]
        ids = [self.experiment(kind) for kind in kinds]
        return self._search(ids) if ids else []

    def runs_of(self, kind: str, key: str) -> list:
        """The runs of ours that stand for one stage, oldest first."""
        return self._search([self.experiment(kind)], f"tags.run_key = '{key}'")

    def inputs(self, keys: list[str]) -> dict[str, str]:
        """Run ids of other stages, by their keys; those without a run are left out."""
        return {
            run.data.tags["run_key"]: run.info.run_id
            for run in self.runs()
            if run.data.tags.get("run_key") in keys
        }

    def row(self, kind: str, row: str, tags: dict[str, str]) -> str:
        """The parent run of the seeds of a table's row; made when absent."""
        with self.target.claim("row", kind, row):
            found = self._search([self.experiment(kind)], f"tags.{ROW} = '{row}'")
            if found:
                return found[0].info.run_id
            run_id = self.create(kind, row, {**tags, ROW: row, "stage": kind})
            self.client.set_terminated(run_id, "FINISHED")
            return run_id

    def create(self, kind: str, name: str, tags: dict[str, str], start: int | None = None) -> str:
        """A new run of ours; its id. start: in ms, now if not given."""
        owned = {**tags, OWNER: self.target.owner} if self.target.owner else tags
        start = start or int(time.time() * 1000)
        created = self.client.create_run(self.experiment(kind), start, owned, name)
        return created.info.run_id

    def get(self, run_id: str):
        """A run by its id; None when the store does not have it, or somebody deleted it."""
        try:
            run = self.client.get_run(run_id)
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return None if run.info.lifecycle_stage == "deleted" else run

    def delete(self, run) -> None:
        """Delete a run and its models; MLflow can restore it until `mlflow gc`."""
        own = f"source_run_id = '{run.info.run_id}'"
        for model in self.client.search_logged_models([run.info.experiment_id], own):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)

    def add_model(self, run, name: str, tags: dict[str, str]) -> None:
        """Tell MLflow about weights that stay where they are, once a run."""
        info = run.info
        own = f"source_run_id = '{info.run_id}'"
        for model in self.client.search_logged_models([info.experiment_id], own):
            if str(model.status) == "READY":
                return
            self.client.delete_logged_model(model.model_id)  # of a job that was killed just here
        before = self.mlflow.get_tracking_uri() if self.mlflow.is_tracking_uri_set() else None
        self.mlflow.set_tracking_uri(self.target.uri)
        try:
            self.mlflow.create_external_model(
                name=name, source_run_id=info.run_id, experiment_id=info.experiment_id, tags=tags
            )
        finally:
            self.mlflow.set_tracking_uri(before)

    def _search(self, experiments: list[str], text: str = "") -> list:
        if self.target.owner:
            own = f"tags.{OWNER} = '{self.target.owner}'"
            text = f"{text} and {own}" if text else own
        found, token = [], None
        while True:
            page = self.client.search_runs(
                experiments,
                text,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found


def _upgrade(path: Path) -> None:
    """Make the store, or bring it to the schema of this mlflow, as `mlflow db upgrade` does.

    A new store appears whole or not at all: a half-migrated file could never be opened again.
    UserError for a damaged one; RetryLater for one that another program keeps locked.
    """
    from mlflow.db import upgrade

    if path.exists():
        _wait_until_free(path)
        _check_whole(path)
        upgrade.callback(f"{SQLITE}{path}")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed sync
            left.unlink()
        with whole_file(path) as temporary:
            upgrade.callback(f"{SQLITE}{temporary}")


def _wait_until_free(path: Path) -> None:
    """Wait, for a bounded time, while another program, such as MLflow's UI, locks the store."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
    except sqlite3.DatabaseError as error:
        if is_locked(error):
            raise locked(f"{SQLITE}{path}") from None
        # damaged, or may not be opened: what comes next says so


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
    """UserError for what is no sqlite file, and for a damaged one."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as store:
            damaged = store.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.OperationalError:  # locked, or may not be opened: MLflow waits, or says why
        damaged = False
    except sqlite3.DatabaseError:
        damaged = True
    if damaged:
        raise UserError(
            f"{path}: no whole sqlite store; move it away and run `clip4vla sync`, it is filled "
            "again from the files"
        )
