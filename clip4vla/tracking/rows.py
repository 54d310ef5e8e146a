"""Parent runs: one per row of a table and dataset, with mean and spread over its seeds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from clip4vla.tracking.context import PLACE, ROW, Context
from clip4vla.tracking.mlflow_run import send
from clip4vla.tracking.shown import is_score
from clip4vla.tracking.store import COMPLETE, PARENT, Store, models_shown

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

SPREAD = "_sd"  # suffix: standard deviation over seeds
SEEDS = "seeds"  # metric: how many seeds the means are of
SHARED_TAGS = ("data_version", "protocol", "selection", "coverage")


@dataclass(frozen=True)
class _Row:
    """The parent run as it must be. children: its runs; seeds: complete runs of its row."""

    kind: str
    name: str
    children: list["Run"]
    seeds: list["Run"]

    @property
    def began(self) -> int:
        return min(run.info.start_time for run in self.seeds or self.children)

    @property
    def ended(self) -> int:
        runs = self.seeds or self.children
        return max(run.info.end_time or run.info.start_time for run in runs)

    @property
    def tags(self) -> dict[str, str]:
        """Return the row's own tags, those that all of its seeds share, and a list of the seeds."""
        every = [run.data.tags for run in self.seeds]
        tags = {name: self.children[0].data.tags.get(name, "") for name in PLACE}
        for name in SHARED_TAGS:
            values = {own.get(name, "") for own in every}
            tags |= {name: values.pop()} if len(values) == 1 else {}
        seeds = " ".join(dict.fromkeys(own.get("seed", "") for own in every))
        source = {"mlflow.source.name": "mean over seeds", "mlflow.source.type": "LOCAL"}
        return {**tags, "seed": seeds, **source}

    @property
    def models(self) -> list[str]:
        return [model for run in self.seeds for model in models_shown(run)]

    @property
    def datasets(self) -> dict[tuple[str, str], "DatasetInput"]:
        return {key: value for run in self.seeds for key, value in _datasets(run).items()}


def bring_rows(store: Store, contexts: dict[str, Context]) -> None:
    """Make every parent run as its row must be, and delete parents without children."""
    runs = store.runs()
    parents: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if ROW in run.data.tags:
            parents.setdefault((run.data.tags["stage"], run.data.tags[ROW]), []).append(run)
    linked: dict[str, str] = {}  # id of a child -> id of its parent
    for row in _rows(runs, contexts):
        with store.target.claim("row", row.kind, row.name):
            parent = _bring(store, row, parents.get((row.kind, row.name), []))
        for run in row.children:
            linked[run.info.run_id] = parent
            if run.data.tags.get(PARENT) != parent:
                store.client.set_tag(run.info.run_id, PARENT, parent)
    used = {linked.get(run.info.run_id, run.data.tags.get(PARENT)) for run in runs}
    for parent_run in (run for several in parents.values() for run in several):
        if parent_run.info.run_id not in used:
            store.client.delete_run(parent_run.info.run_id)


def numbers_of(runs: Iterable["Run"]) -> dict[str, float]:
    """Return the mean of every score, its standard deviation over seeds, and how many seeds.

    The number of a seed is the mean over its folds, as in the tables.
    """
    seeds: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        seeds.setdefault(run.data.tags.get("seed", ""), []).append(run.data.metrics)
    if not seeds:
        return {}
    numbers = {SEEDS: float(len(seeds))}
    every = [metrics for folds in seeds.values() for metrics in folds]
    for name in filter(is_score, set.intersection(*map(set, every))):
        values = [mean(metrics[name] for metrics in folds) for folds in seeds.values()]
        numbers[name] = mean(values)
        if len(values) > 1:
            numbers[name + SPREAD] = stdev(values)
    return numbers


def _rows(runs: list["Run"], contexts: dict[str, Context]) -> Iterator[_Row]:
    known = [(run, contexts[key]) for run in runs if (key := _key(run)) in contexts]
    names = {(run.data.tags["stage"], context.row) for run, context in known if context.row}
    for kind, name in sorted(names):
        own = [(run, context) for run, context in known if run.data.tags["stage"] == kind]
        yield _Row(
            kind=kind,
            name=name,
            children=[run for run, context in own if context.row == name],
            seeds=[
                run for run, context in own if name in context.rows and COMPLETE in run.data.tags
            ],
        )


def _key(run: "Run") -> str:
    return run.data.tags.get("run_key", "")


def _bring(store: Store, row: _Row, parents: list["Run"]) -> str:
    """Return the id of the row's parent run. One with something that the row lacks is not kept."""
    numbers = numbers_of(row.seeds)
    parent = next((run for run in parents if _can_be(run, row, numbers)), None)
    if parent is None:
        tags = {ROW: row.name, "stage": row.kind}
        parent = store.create(row.kind, row.name, tags, row.began)
    now, run_id, present = row.ended, parent.info.run_id, parent.data.metrics
    points = [(name, value, 0, now) for name, value in numbers.items() if name not in present]
    send(store, parent, points=points, tags=row.tags)
    logged = _datasets(parent)
    new = [value for key, value in row.datasets.items() if key not in logged]
    store.log_datasets(run_id, new)
    store.show_models(parent, row.models)
    if (parent.info.status, parent.info.end_time) != ("FINISHED", row.ended):
        store.client.set_terminated(run_id, "FINISHED", end_time=row.ended)
    return run_id


def _can_be(parent: "Run", row: _Row, numbers: dict[str, float]) -> bool:
    """Return whether a parent run needs only additions to be as its row must be."""
    return (
        parent.info.start_time == row.began
        and parent.data.metrics.items() <= numbers.items()
        and _datasets(parent).keys() <= row.datasets.keys()
        and set(models_shown(parent)) <= set(row.models)
    )


def _datasets(run: "Run") -> dict[tuple[str, str], "DatasetInput"]:
    logged = run.inputs.dataset_inputs if run.inputs else []
    return {(item.dataset.name, item.dataset.digest): item for item in logged}
