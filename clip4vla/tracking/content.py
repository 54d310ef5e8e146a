"""What of a record goes into its MLflow run. Filling a run twice changes nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from clip4vla.common.errors import UserError
from clip4vla.tracking.attempts import read_attempts, tags_of, usage_of
from clip4vla.tracking.context import Context
from clip4vla.tracking.curve import read_curve
from clip4vla.tracking.params import allowed
from clip4vla.tracking.record import Record
from clip4vla.tracking.recorded import record_problem, rerun
from clip4vla.tracking.store import PARENT, Store

BATCH = 1000  # metrics of one log_batch
MAX_TAGS = 90  # room for those of a sync itself within 100
MAX_PARAM = 6000
MAX_TAG = 5000
MAX_NAME = 250
LIVE = ("system/", "progress/", "speed/")  # what a live run alone has: measured while it ran
Point = tuple[str, float, int, int]  # name, value, step, time in ms


class ChangedFile(UserError):
    """A file of a stage differs from its record, so the stage is not sent."""


class Contradiction(UserError):
    """The run contains something that its record does not: it cannot be fixed, only replaced."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: its record, where that is, and what is known beside it."""

    path: Path
    record: Record
    digest: str
    context: Context

    @property
    def identity(self) -> tuple[str, str]:
        """Kind and key."""
        return self.record.kind, self.record.key

    @property
    def ended_ms(self) -> int:
        """The time of the record is the time that its stage ended."""
        return int(self.path.stat().st_mtime * 1000)

    def check_files(self) -> None:
        """Raise ChangedFile when a file of the record is missing or has another sha256."""
        for name in self.record.files:
            path = self.path.parent / name
            if problem := record_problem(self.record, name, path):
                fix = rerun(self.record.kind, self.record.key)
                raise ChangedFile(
                    f"{path}: {problem}; not sent to MLflow. Fix: {fix}, then sync again"
                )


def fill(store: Store, run, stage: Stage, tags: dict[str, str], fresh: bool) -> None:
    """Bring into a run what it lacks of its record.

    fresh: the run has just been made and holds no metric. Raises Contradiction.
    """
    run_id, record, folder = run.info.run_id, stage.record, stage.path.parent
    log_params(store, run_id, record.params)
    attempts = read_attempts(stage.context.state)
    made = tags_of(attempts)
    for name in ("hosts", "slurm_job_ids"):  # a killed attempt noted them in the live run alone
        made |= joined(name, run.data.tags.get(name, ""), made.get(name, ""))
    facts = {**stage.context.tags, **_first(record.tags, MAX_TAGS - len(tags)), **made, **tags}
    set_tags(store, run, facts)
    points = [*_points(stage), *usage_of(attempts)]
    log_points(store, run_id, points if fresh else _missing(store, run_id, points))
    send_artifacts(store, run_id, stage)
    _log_datasets(store, run_id, record)
    if record.model:
        about = {
            "run_key": record.key,
            "sha256": record.files[record.model],
            "path": str((folder / record.model).resolve()),
        }
        store.add_model(run, f"{record.kind}-{record.key}", about)
    store.client.set_terminated(run_id, "FINISHED", end_time=stage.ended_ms)


def send_artifacts(store: Store, run_id: str, stage: Stage) -> None:
    """Send the files of a stage, and overwrite those of the run."""
    for name in stage.record.artifacts:
        store.client.log_artifact(run_id, str(stage.path.parent / name), _place(name))


def _place(name: str) -> str | None:
    """The artifact's folder: all tables have a table.md. None: at the top."""
    parent = PurePosixPath(name).parent
    return None if parent == PurePosixPath() or ".." in parent.parts else str(parent)


def log_params(store: Store, run_id: str, params: dict[str, str]) -> None:
    """Log the allowed params; Contradiction when one is there with another value."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    chosen = allowed(params)
    listed = [Param(metric_name(name), value[:MAX_PARAM]) for name, value in chosen.items()]
    try:
        store.client.log_batch(run_id, params=listed)
    except MlflowException as error:
        if "old value" in str(error) or error.error_code == "INVALID_PARAMETER_VALUE":
            raise Contradiction("a param has another value") from None
        raise


def set_tags(store: Store, run, tags: dict[str, str]) -> None:
    """Set the tags that the run does not have yet."""
    from mlflow.entities import RunTag

    cut = {name[:MAX_NAME]: value[:MAX_TAG] for name, value in tags.items() if value}
    new = [RunTag(*item) for item in cut.items() if run.data.tags.get(item[0]) != item[1]]
    if new:
        store.client.log_batch(run.info.run_id, tags=new)


def log_points(store: Store, run_id: str, points: list[Point]) -> None:
    """Send metrics, a batch at a time; a point that is there already is not added again."""
    from mlflow.entities import Metric

    queue = (Metric(metric_name(name), value, at, step) for name, value, step, at in points)
    while batch := list(islice(queue, BATCH)):
        store.client.log_batch(run_id, metrics=batch)


def metric_name(name: str) -> str:
    """A name that MLflow takes: others than letters, digits and `_-. :/` become `_`."""
    allowed_marks = (mark if mark.isalnum() or mark in "_-. :/" else "_" for mark in name)
    return "".join(allowed_marks)[:MAX_NAME]


def joined(name: str, *lists: str) -> dict[str, str]:
    """A tag of words, each once: what is known from several places."""
    words = dict.fromkeys(word for text in lists for word in text.split())
    return {name: " ".join(words)} if words else {}


def links(stage: Stage, run_ids: dict[str, str], parent: str | None) -> dict[str, str]:
    """Tags that lead to the runs of the inputs, and to that of the row."""
    found = {f"parent.{key}": run_ids[key] for key in stage.record.inputs if key in run_ids}
    return found | ({PARENT: parent} if parent else {})


def _points(stage: Stage) -> Iterator[Point]:
    """Metrics of the curve, with their times where the state still has them; those of the end."""
    record, folder, now = stage.record, stage.path.parent, stage.ended_ms
    step, names = 0, set()
    if record.curve:
        times = _times(stage.context.state)
        for row in read_curve(folder / record.curve):
            step = row.step
            for name, value in row.values.items():
                names.add(name)
                yield name, value, step, times.get((step, name), now)
    for name, value in record.metrics.items():
        yield (f"final/{name}" if name in names else name), value, step, now


def _times(state: Path | None) -> dict[tuple[int, str], int]:
    path = state and state / "metrics.jsonl"
    if path is None or not path.is_file():
        return {}
    rows = (row for row in read_curve(path) if row.timestamp_ms is not None)
    return {(row.step, name): row.timestamp_ms for row in rows for name in row.values}


def _missing(store: Store, run_id: str, points: list[Point]) -> list[Point]:
    """The points that the run lacks. Raises Contradiction when it has others, or one twice."""
    names = [name for name in store.client.get_run(run_id).data.metrics if _is_kept(name)]
    there = Counter(
        (name, metric.value, metric.step)
        for name in names
        for metric in store.client.get_metric_history(run_id, name)
    )
    wanted = {(metric_name(name), value, step) for name, value, step, _ in points}
    if there.keys() - wanted or max(there.values(), default=1) > 1:
        raise Contradiction("it has points that the curve does not have")
    return [point for point in points if (metric_name(point[0]), *point[1:3]) not in there]


def _is_kept(name: str) -> bool:
    return not name.startswith(LIVE) or name.startswith("system/attempt_")


def _log_datasets(store: Store, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for item in record.datasets:
        counts = {name: item[name] for name in ("planned", "usable", "silent") if name in item}
        profile = {"num_rows": counts["usable"], **counts} if "usable" in counts else counts
        source = json.dumps({"uri": item["source"]})
        dataset = Dataset(item["name"], item["digest"], "local", source, None, json.dumps(profile))
        tags = [InputTag("mlflow.data.context", item["context"])]
        tags += [InputTag(name, str(value)) for name, value in counts.items()]
        found.append(DatasetInput(dataset, tags))
    if found:
        store.client.log_inputs(run_id, found)


def _first(values: dict[str, str], limit: int) -> dict[str, str]:
    return {name: values[name] for name in sorted(values)[:limit]}
