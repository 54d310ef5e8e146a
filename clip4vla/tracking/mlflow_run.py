"""Fill the MLflow run of a record. Filling a run twice changes nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.config.layout import remake
from clip4vla.tracking.attempts import read_attempts, tags_of, times_of, usage_of
from clip4vla.tracking.context import Context
from clip4vla.tracking.curve import read_curve
from clip4vla.tracking.params import allowed
from clip4vla.tracking.record import Record
from clip4vla.tracking.recorded import record_problem
from clip4vla.tracking.shown import shown
from clip4vla.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

BATCH = 800  # metrics per call of log_batch, which takes 1000 with params and tags
NUMBERS = "numbers.json"  # artifact: every number of a record
MAX_TAGS = 90  # of 100 that MLflow takes at once; a sync adds its own
MAX_PARAM = 6000
MAX_TAG = 5000
MAX_NAME = 250
LIVE = ("system/", "progress/", "speed/")  # measured while a live run ran: only live runs have them
Point = tuple[str, float, int, int]  # name, value, step, time in ms


class ChangedFile(UserError):
    """A file of a stage differs from its record, so the stage is not sent."""


class Contradiction(UserError):
    """The run contains something that its record does not, so it must be replaced."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: its record, the path and digest of that, and its context."""

    path: Path
    record: Record
    digest: str
    context: Context

    @property
    def identity(self) -> tuple[str, str]:
        """Return kind and key."""
        return self.record.kind, self.record.key

    @cached_property
    def times_ms(self) -> tuple[int, int]:
        """Return when the stage began and ended: its attempts say so, otherwise times of files."""
        began, ended = times_of(read_attempts(self.context.state))
        ended = ended or _written_ms(self.path)
        first = self.context.began
        if began is None and first is not None and first.exists():
            began = _written_ms(first)
        return min(began or ended, ended), ended

    def check_files(self) -> None:
        """Raise ChangedFile when a file of the record is missing or has another sha256."""
        for name in self.record.files:
            path = self.path.parent / name
            if problem := record_problem(self.record, name, path):
                fix = remake(path)
                raise ChangedFile(
                    f"{path}: {problem}; not sent to MLflow. Fix: {fix}, then sync again"
                )


def fill(store: Store, run: "Run", stage: Stage, tags: dict[str, str], fresh: bool) -> str | None:
    """Add everything to a run that it lacks of its record; return the id of its model, if any.

    fresh: the run has just been created and has no metrics. Raises Contradiction.
    """
    run_id, record = run.info.run_id, stage.record
    attempts = read_attempts(stage.context.state)
    provenance = tags_of(attempts)
    for name in ("hosts", "slurm_job_ids"):  # only the live run has those of a killed attempt
        provenance |= joined(name, run.data.tags.get(name, ""), provenance.get(name, ""))
    own = _first(record.tags, MAX_TAGS - len(tags))
    points = [*_points(stage), *usage_of(attempts)]
    send(
        store,
        run,
        points=points if fresh else _missing(store, run_id, points),
        params=record.params,
        tags={**stage.context.tags, **own, **provenance, **tags},
    )
    _send_artifacts(store, run_id, stage)
    _log_datasets(store, run_id, record)
    model = _add_model(store, run, stage)
    store.client.set_terminated(run_id, "FINISHED", end_time=stage.times_ms[1])
    return model


def _send_artifacts(store: Store, run_id: str, stage: Stage) -> None:
    """Send the files and numbers of a stage, and overwrite those of the run."""
    for name in stage.record.artifacts:
        store.client.log_artifact(run_id, str(stage.path.parent / name), _place(name))
    store.client.log_dict(run_id, stage.record.metrics, NUMBERS)


def _add_model(store: Store, run: "Run", stage: Stage) -> str | None:
    """Register the weights of a stage, if any, as the output of its run; return the model's id."""
    record, folder = stage.record, stage.path.parent
    if record.model is None:
        return None
    model_tags = {
        "run_key": record.key,
        "sha256": record.files[record.model],
        "path": str((folder / record.model).resolve()),
    }
    return store.add_model(run, f"{record.kind}-{record.key}", model_tags)


def _place(name: str) -> str | None:
    """Return the folder of an artifact in the run (every table has a table.md); None: the top."""
    parent = PurePosixPath(name).parent
    return None if parent == PurePosixPath() or ".." in parent.parts else str(parent)


def send(
    store: Store,
    run: "Run",
    points: list[Point] | None = None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Send metrics, allowed params, and tags that the run lacks or has with another value.

    MLflow does not add a point again that it has. Raises Contradiction if the run has a param with
    another value.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    metrics = (Metric(metric_name(name), value, at, step) for name, value, step, at in points or [])
    chosen = allowed(params or {})
    listed = [Param(metric_name(name), value[:MAX_PARAM]) for name, value in chosen.items()]
    cut = {name[:MAX_NAME]: value[:MAX_TAG] for name, value in (tags or {}).items() if value}
    new = [RunTag(key, value) for key, value in cut.items() if run.data.tags.get(key) != value]
    batch = list(islice(metrics, BATCH))
    try:
        while batch or listed or new:
            store.client.log_batch(run.info.run_id, metrics=batch, params=listed, tags=new)
            batch, listed, new = list(islice(metrics, BATCH)), [], []
    except MlflowException as error:
        if listed and ("old value" in str(error) or error.error_code == "INVALID_PARAMETER_VALUE"):
            raise Contradiction("a param has another value") from None
        raise


def metric_name(name: str) -> str:
    """Return a valid metric name: marks other than letters, digits and `_-. :/` become `_`."""
    allowed_marks = (mark if mark.isalnum() or mark in "_-. :/" else "_" for mark in name)
    return "".join(allowed_marks)[:MAX_NAME]


def joined(name: str, *lists: str) -> dict[str, str]:
    """Return a tag with the words of several lists, each once; {} if there are none."""
    words = dict.fromkeys(word for text in lists for word in text.split())
    return {name: " ".join(words)} if words else {}


def links(stage: Stage, run_ids: dict[str, str]) -> dict[str, str]:
    """Return tags that link to the runs of the inputs."""
    return {f"parent.{key}": run_ids[key] for key in stage.record.inputs if key in run_ids}


def _points(stage: Stage) -> Iterator[Point]:
    """Yield the metrics of the curve, with times if the state has them, then the final ones."""
    record, folder, (_, now) = stage.record, stage.path.parent, stage.times_ms
    step, names = 0, set[str]()
    if record.curve:
        times = _times(stage.context.state)
        for row in read_curve(folder / record.curve):
            step = row.step
            for name, value in row.values.items():
                names.add(name)
                yield name, value, step, times.get((step, name), now)
    for name, value in shown(record.metrics).items():
        yield (f"final/{name}" if name in names else name), value, step, now


def _written_ms(path: Path) -> int:
    return int(path.stat().st_mtime * 1000)


def _times(state: Path | None) -> dict[tuple[int, str], int]:
    path = state / "metrics.jsonl" if state else None
    if path is None or not path.is_file():
        return {}
    return {
        (row.step, name): row.timestamp_ms
        for row in read_curve(path)
        if row.timestamp_ms is not None
        for name in row.values
    }


def _missing(store: Store, run_id: str, points: list[Point]) -> list[Point]:
    """Return the points that the run lacks. Contradiction if it has others, or one twice."""
    metrics = store.client.get_run(run_id).data.metrics
    names = [name for name in metrics if _is_of_record(name)]
    present = Counter(
        (name, metric.value, metric.step)
        for name in names
        for metric in store.client.get_metric_history(run_id, name)
    )
    wanted = {(metric_name(name), value, step) for name, value, step, _ in points}
    if present.keys() - wanted or max(present.values(), default=1) > 1:
        raise Contradiction("it has points that the curve does not have")
    return [point for point in points if (metric_name(point[0]), *point[1:3]) not in present]


def _is_of_record(name: str) -> bool:
    return not name.startswith(LIVE) or name.startswith("system/attempt_")


def _log_datasets(store: Store, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for item in record.datasets:
        counts = {name: item[name] for name in ("planned", "usable", "silent") if name in item}
        rows = {"num_rows": counts["usable"]} if "usable" in counts else {}
        source = json.dumps({"uri": item["source"]})
        dataset = Dataset(
            item["name"], item["digest"], "local", source, None, json.dumps({**rows, **counts})
        )
        tags = [InputTag("mlflow.data.context", item["context"])]
        tags += [InputTag(name, str(value)) for name, value in counts.items()]
        inputs.append(DatasetInput(dataset, tags))
    store.log_datasets(run_id, inputs)


def _first(values: dict[str, str], limit: int) -> dict[str, str]:
    return {name: values[name] for name in sorted(values)[:limit]}
