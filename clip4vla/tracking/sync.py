"""Replay records into an MLflow store. A sync is idempotent and can be killed at any time.

The tag `record_sha256` is set last and marks a complete run. The next sync skips such runs,
completes runs without it (a live run, or a run of a killed sync), and replaces runs that contradict
their record, or that an older version filled otherwise (`CONTENT`). MLflow can restore deleted runs
until `mlflow gc` removes them. Runs that an edit of the config replaced get the tag `superseded`
and are deleted in this sense; when the edit is undone, the sync restores them.

A sync skips a stage whose files differ from its record, and reports it after all other stages are
sent.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.log import log
from clip4vla.common.programs import program
from clip4vla.common.progress import track
from clip4vla.config.plan import TRAINED
from clip4vla.tracking.context import Context, Target, place, read_run_id, write_run_id
from clip4vla.tracking.mlflow_run import (
    ChangedFile,
    Contradiction,
    Stage,
    fill,
    links,
    send,
)
from clip4vla.tracking.record import read_record
from clip4vla.tracking.rows import bring_rows
from clip4vla.tracking.server import explained
from clip4vla.tracking.store import (
    COMPLETE,
    SQLITE,
    SUPERSEDED,
    Store,
    is_locked,
    locked,
    models_shown,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

CONTENT = ("content_version", "2")  # tag: which numbers, times and models a run has


@dataclass
class SyncReport:
    """Counts of the runs that a sync wrote or skipped, and the command that shows the store."""

    added: int = 0
    skipped: int = 0
    completed: int = 0  # of a live run, or of an earlier sync that was killed
    replaced: int = 0  # contradicted the record, or of an older version
    superseded: int = 0  # replaced by an edit of the config
    changed: list[str] = field(
        default_factory=list
    )  # error messages of files that differ from their records
    runs: dict[str, str] = field(default_factory=dict)  # key of a record -> its MLflow run
    models: dict[str, str] = field(default_factory=dict)  # key -> the model that its run made
    uri: str = ""
    command: str = ""

    def note(self, runs: "list[Run]") -> None:
        """Note complete runs of stages, and the models that they made."""
        for run in runs:
            key = run.data.tags.get("run_key")
            if key is None or COMPLETE not in run.data.tags:
                continue
            self.runs[key] = run.info.run_id
            if run.data.tags["stage"] in TRAINED and (made := models_shown(run)):
                self.models[key] = made[-1]


def sync(
    records: list[Path],
    target: Target,
    contexts: dict[str, Context] | None = None,
    whole: bool = False,
) -> SyncReport:
    """Bring a store (a server, or an sqlite file, created if missing) up to date.

    There is one experiment per kind, `<experiment>/<kind>`, and one run per record, with params,
    tags, metrics, the whole curve, artifacts, datasets, the models that it read and, for weights,
    the LoggedModel that it made. Tags `parent.<key>` link a run to the runs of its inputs, and it
    is a child of the run of its row. `contexts` (by key) may change at any time. whole: they are of
    all stages of the config, finished or not, so that other runs of their rows are superseded.

    Raises UserError for a corrupt record, two records of one stage, files that differ from their
    records (at the end, when all other stages are sent), or a server that refuses; RetryLater when
    no server answers.
    """
    contexts = contexts or {}
    stages = _in_order(_read(records, contexts))
    report = SyncReport(uri=target.uri)
    local = target.uri.startswith(SQLITE)
    if local:
        store = f"--backend-store-uri {shlex.quote(target.uri)}"
        report.command = f"{program('mlflow')} ui {store}"
    try:
        with target.claim("all", notify=log.info):  # two would both make the parent of a row
            return _sync(stages, target, contexts, whole, report)
    except (UserError, RetryLater):
        raise
    except Exception as error:
        if local and is_locked(error):  # MLflow wraps sqlite's in several layers
            raise locked(target.uri) from None
        if not local and type(error).__module__.startswith(("mlflow", "requests")):
            raise explained(target.uri, error) from None
        raise


def _sync(
    stages: list[Stage],
    target: Target,
    contexts: dict[str, Context],
    whole: bool,
    report: SyncReport,
) -> SyncReport:
    store = Store(target)
    _restore(store, stages)
    every = store.runs()
    if whole:
        report.superseded = _supersede(store, every, contexts)
    report.note(every)
    for stage in track(stages, "MLflow"):
        try:
            bring(store, stage, report)
        except ChangedFile as error:
            report.changed.append(str(error))
    bring_rows(store, contexts)
    if report.changed:
        raise UserError(*report.changed)
    return report


def bring(store: Store, stage: Stage, report: SyncReport) -> str:
    """Make sure that a record has exactly one complete run; return its id.

    Raises ChangedFile, before anything is changed, where a file differs from the record.
    """
    kind, key = stage.identity
    with store.target.claim(kind, key):
        runs = store.runs_of(kind, key)
        complete = [run for run in runs if _is_complete(run, stage)]
        begun = [run for run in runs if COMPLETE not in run.data.tags]
        noted_id = read_run_id(stage.context.state)
        begun.sort(key=lambda run: run.info.run_id != noted_id)
        kept = (complete or begun)[:1]
        if not complete:
            stage.check_files()
        for run in runs:
            if run not in kept:
                store.delete(run)
        run_id = _make(store, stage, kept[0] if kept else None, bool(complete), report)
    if complete:
        report.skipped += 1
    elif not runs:
        report.added += 1
    elif kept and kept[0].info.run_id == run_id:
        report.completed += 1
    else:
        report.replaced += 1
    report.runs[key] = run_id
    return run_id


def _make(store: Store, stage: Stage, run: "Run | None", complete: bool, report: SyncReport) -> str:
    """Fill a run, or a new one; of a complete run, update only names and links."""
    kind, key = stage.identity
    context = stage.context
    tags = links(stage, report.runs)
    if run is not None and run.info.run_name != context.name:
        store.client.update_run(run.info.run_id, name=context.name)
    if run is not None and complete:
        send(store, run, tags={**context.tags, **tags})
        return run.info.run_id
    identity = {"run_key": key, "stage": kind}
    tags |= identity
    if stage.record.inputs:
        tags["inputs"] = " ".join(stage.record.inputs)
    if run is not None:
        try:
            return _finish(store, run, stage, tags, report, fresh=False)
        except Contradiction:
            store.delete(run)
    new = store.create(kind, context.name, identity, stage.times_ms[0])
    return _finish(store, new, stage, tags, report, fresh=True)


def _finish(
    store: Store, run: "Run", stage: Stage, tags: dict[str, str], report: SyncReport, fresh: bool
) -> str:
    model = fill(store, run, stage, tags | dict([CONTENT]), fresh)
    run_id = run.info.run_id
    if model is not None:
        report.models[stage.record.key] = model
    read = [report.models[key] for key in stage.record.inputs if key in report.models]
    store.link_models(run_id, read)
    store.client.set_tag(run_id, COMPLETE, stage.digest)
    if store.target.owner:  # a server, which live runs use too
        write_run_id(stage.context.state, run_id)
    return run_id


def _restore(store: Store, stages: list[Stage]) -> None:
    """Restore runs that were superseded, when an edit of the config was undone."""
    wanted = {stage.identity: stage for stage in stages}
    for run in store.runs(f"tags.{SUPERSEDED} = 'true'", deleted=True):
        stage = wanted.get((run.data.tags["stage"], run.data.tags["run_key"]))
        if stage is not None and _is_complete(run, stage):
            del wanted[stage.identity]
            store.client.restore_run(run.info.run_id)
            store.client.delete_tag(run.info.run_id, SUPERSEDED)


def _supersede(store: Store, runs: "list[Run]", contexts: Mapping[str, Context]) -> int:
    """Hide runs of rows that the config still has, but with other runs; return how many.

    Their models stay, since MLflow can restore a run but not a model.
    """
    rows = {row for context in contexts.values() for row in (*context.rows, place(context.tags))}
    old = [
        run
        for run in runs
        if (key := run.data.tags.get("run_key")) is not None and key not in contexts
        if (row := place(run.data.tags)) is not None and row in rows
    ]
    for run in old:
        store.client.set_tag(run.info.run_id, SUPERSEDED, "true")
        store.client.delete_run(run.info.run_id)
    return len(old)


def _is_complete(run: "Run", stage: Stage) -> bool:
    tags = run.data.tags
    return tags.get(COMPLETE) == stage.digest and tags.get(CONTENT[0]) == CONTENT[1]


def _read(paths: list[Path], contexts: dict[str, Context]) -> dict[tuple[str, str], Stage]:
    stages: dict[tuple[str, str], Stage] = {}
    for path in sorted(Path(path) for path in paths):
        record, digest = read_record(path)
        stage = Stage(path, record, digest, contexts.get(record.key) or Context(record.name))
        if stage.identity in stages:
            raise UserError(
                f"{path}: {record.kind} {record.key} is recorded in {stages[stage.identity].path} "
                "too. Fix: name only one of them"
            )
        stages[stage.identity] = stage
    return stages


def _in_order(stages: dict[tuple[str, str], Stage]) -> list[Stage]:
    """Return the stages with inputs before their users, otherwise in the order of paths."""
    by_key: dict[str, list[Stage]] = {}
    for stage in stages.values():
        by_key.setdefault(stage.record.key, []).append(stage)
    ordered: list[Stage] = []
    visited: set[Path] = set()

    def visit(stage: Stage) -> None:
        if stage.path in visited:
            return
        visited.add(stage.path)
        for key in stage.record.inputs:
            for parent in by_key.get(key, []):
                visit(parent)
        ordered.append(stage)

    for stage in stages.values():
        visit(stage)
    return ordered
