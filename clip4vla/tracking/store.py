"""The MLflow store behind a sync: one sqlite file and a folder of artifacts."""

import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from clip4vla.errors import UserError
from clip4vla.files import whole_file
from clip4vla.tracking.curve import read_rows
from clip4vla.tracking.record import Record

BATCH = 1000  # metrics of one log_batch
MAX_PARAMS = 100
MAX_TAGS = 90  # room for the tags of a sync itself within 100
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_NAME = 250
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # the view that the UI opens


def quiet_mlflow():
    """Import mlflow with its telemetry and chatter off, and return the module."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its import sets the level again
    return mlflow


class Store:
    """Runs and models of one store. Use it under a lock on the store's folder."""

    def __init__(self, path: Path, artifacts: Path, prefix: str):
        self.mlflow = quiet_mlflow()
        self.prefix = prefix
        self.artifacts = artifacts
        self.uri = f"sqlite:///{path}"
        _upgrade(path)
        self.client = self.mlflow.MlflowClient(tracking_uri=self.uri)
        self.experiments: dict[str, str] = {}

    def experiment(self, kind: str) -> str:
        """Id of the experiment of a kind; made when absent."""
        if kind not in self.experiments:
            name = f"{self.prefix}/{kind}"
            folder = (self.artifacts / kind).as_uri()
            found = self.client.get_experiment_by_name(name)
            self.experiments[kind] = (
                found.experiment_id
                if found
                else self.client.create_experiment(name, folder, tags=MODEL_TRAINING)
            )
        return self.experiments[kind]

    def runs(self) -> dict[tuple[str, str], list]:
        """The runs that syncs have made, complete or not: (kind, key) -> runs, oldest first.

        Experiments that somebody deleted are restored: their names cannot be used twice.
        """
        found: dict[tuple[str, str], list] = {}
        start = f"{self.prefix}/"
        every = self.client.search_experiments(self.mlflow.entities.ViewType.ALL)
        experiments = [item for item in every if item.name.startswith(start)]
        for item in experiments:
            if item.lifecycle_stage == "deleted":
                self.client.restore_experiment(item.experiment_id)
        token = None
        while experiments:
            page = self.client.search_runs(
                [e.experiment_id for e in experiments],
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                if "run_key" in tags and "stage" in tags:
                    found.setdefault((tags["stage"], tags["run_key"]), []).append(run)
            token = page.token
            if not token:
                break
        return found

    def rename(self, run_id: str, name: str) -> None:
        """Give a run a readable name; nothing happens when it has it."""
        if self.client.get_run(run_id).info.run_name != name:
            self.client.update_run(run_id, name=name)

    def delete(self, run) -> None:
        """Delete a run and its models."""
        own = f"source_run_id = '{run.info.run_id}'"
        for model in self.client.search_logged_models([run.info.experiment_id], own):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)

    def write(self, path: Path, record: Record, parents: dict[str, str]) -> str:
        """Write everything of a record as a new run; return its id."""
        from mlflow.entities import Metric, Param, RunTag

        folder = path.parent
        gone = [name for name in record.files if not (folder / name).is_file()]
        if gone:
            raise UserError(
                f"{path}: {folder / gone[0]} is not there: run {record.kind} {record.key} again"
            )
        experiment = self.experiment(record.kind)
        # The time of the record is the time its stage ended: the store may have one, files not.
        now = int(path.stat().st_mtime * 1000)
        identity = {"run_key": record.key, "stage": record.kind}
        run_id = self.client.create_run(
            experiment, start_time=now, tags=identity, run_name=record.name
        ).info.run_id
        tags = {**_first(record.tags, MAX_TAGS - len(parents)), **parents, **identity}
        if record.inputs:
            tags["inputs"] = " ".join(record.inputs)
        if len(record.params) > MAX_PARAMS:
            tags["params_left_out"] = str(len(record.params) - MAX_PARAMS)
        self.client.log_batch(
            run_id,
            params=[
                Param(_name(name), value[:MAX_PARAM])
                for name, value in _first(record.params, MAX_PARAMS).items()
            ],
            tags=[RunTag(name[:MAX_NAME], value[:MAX_TAG]) for name, value in tags.items()],
        )
        numbers = list(_numbers(record, folder))
        queue = (Metric(_name(name), value, now, step) for name, value, step in numbers)
        while batch := list(islice(queue, BATCH)):
            self.client.log_batch(run_id, metrics=batch)
        for name in record.artifacts:
            self.client.log_artifact(run_id, str(folder / name))
        if record.model:
            self._add_model(experiment, run_id, path, record)
        self.client.set_terminated(run_id, "FINISHED", end_time=now)
        return run_id

    def _add_model(self, experiment: str, run_id: str, path: Path, record: Record) -> None:
        """Tell MLflow about weights that stay where they are."""
        before = self.mlflow.get_tracking_uri() if self.mlflow.is_tracking_uri_set() else None
        self.mlflow.set_tracking_uri(self.uri)
        try:
            self.mlflow.create_external_model(
                name=f"{record.kind}-{record.key}",
                source_run_id=run_id,
                experiment_id=experiment,
                tags={
                    "run_key": record.key,
                    "sha256": record.files[record.model],
                    "path": str((path.parent / record.model).resolve()),
                },
            )
        finally:
            self.mlflow.set_tracking_uri(before)


def _upgrade(path: Path) -> None:
    """Make the store, or bring it to the schema of this mlflow, as `mlflow db upgrade` does.

    A new store appears whole or not at all: a half-migrated file could never be opened again.
    """
    from mlflow.db import upgrade

    if path.exists():
        upgrade.callback(f"sqlite:///{path}")
    else:
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed sync
            left.unlink()
        with whole_file(path) as temporary:
            upgrade.callback(f"sqlite:///{temporary}")


def _numbers(record: Record, folder: Path) -> Iterator[tuple[str, float, int]]:
    """Metrics of the curve and then those of the end, as (name, value, step)."""
    step, names = 0, set()
    if record.curve:
        for step, values in read_rows(folder / record.curve):
            for name, value in values.items():
                names.add(name)
                yield name, value, step
    for name, value in record.metrics.items():
        yield (f"final/{name}" if name in names else name), value, step


def _first(values: dict[str, str], limit: int) -> dict[str, str]:
    return {name: values[name] for name in sorted(values)[:limit]}


def _name(name: str) -> str:
    """A name that MLflow takes: others than letters, digits and `_-. :/` become `_`."""
    allowed = (mark if mark.isalnum() or mark in "_-. :/" else "_" for mark in name)
    return "".join(allowed)[:MAX_NAME]
