"""Replay records into an MLflow store. A sync is idempotent and can be killed at any time.

The tag `record_sha256` is set last and marks a complete run. The next sync skips such runs,
completes runs without it (a live run, or a run of a killed sync), and replaces runs that contradict
their record. MLflow can restore deleted runs until `mlflow gc` removes them.

A sync skips a stage whose files differ from its record, and reports it after all other stages are
sent. The tag `files_checked` marks runs whose files were compared. Runs of older versions lack it,
and the next sync sends their files again.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.progress import track
from clip4vla.tracking.context import Context, Target, read_run_id, write_run_id
from clip4vla.tracking.mlflow_run import (
    ChangedFile,
    Contradiction,
    Stage,
    fill,
    links,
    row_tags,
    send_artifacts,
    set_tags,
)
from clip4vla.tracking.record import read_record
from clip4vla.tracking.server import explained
from clip4vla.tracking.store import PARENT, ROW, SQLITE, Store, is_locked, locked

if TYPE_CHECKING:
    from mlflow.entities import Run

COMPLETE = "record_sha256"
CHECKED = "files_checked"


@dataclass
class SyncReport:
    """Counts of the runs that a sync wrote or skipped, and the command that shows the store."""

    added: int = 0
    skipped: int = 0
    completed: int = 0  # of a live run, or of an earlier sync that was killed
    replaced: int = 0  # contradicted the record
    changed: list[str] = field(
        default_factory=list
    )  # error messages of files that differ from their records
    runs: dict[str, str] = field(default_factory=dict)  # key of a record -> its MLflow run
    uri: str = ""
    command: str = ""


def sync(
    records: list[Path], target: Target, contexts: dict[str, Context] | None = None
) -> SyncReport:
    """Bring a store (a server, or an sqlite file, created if missing) up to date.

    There is one experiment per kind, `<experiment>/<kind>`, and one run per record, with params,
    tags, metrics, the whole curve, artifacts, datasets and, for weights, a LoggedModel. Tags
    `parent.<key>` link a run to the runs of its inputs, and it is a child of the run of its row.
    `contexts` (by key) may change at any time.

    Raises UserError for a corrupt record, two records of one stage, files that differ from their
    records (at the end, when all other stages are sent), or a server that refuses; RetryLater when
    no server answers.
    """
    stages = _in_order(_read(records, contexts or {}))
    report = SyncReport(uri=target.uri)
    if target.uri.startswith(SQLITE):
        report.command = f"mlflow ui --backend-store-uri {shlex.quote(target.uri)}"
        with target.claim("all"):  # one writer at a time
            try:
                return _sync(stages, target, report)
            except Exception as error:  # MLflow wraps sqlite's in several layers
                if is_locked(error):
                    raise locked(target.uri) from None
                raise
    try:
        return _sync(stages, target, report)
    except (UserError, RetryLater):
        raise
    except OSError as error:
        if type(error).__module__.startswith("requests"):
            raise explained(target.uri, error) from None
        raise
    except Exception as error:
        if type(error).__module__.startswith("mlflow"):
            raise explained(target.uri, error) from None
        raise


def _sync(stages: list[Stage], target: Target, report: SyncReport) -> SyncReport:
    store = Store(target)
    every = store.runs()
    report.runs |= {
        run.data.tags["run_key"]: run.info.run_id
        for run in every
        if COMPLETE in run.data.tags and "run_key" in run.data.tags
    }
    for stage in track(stages, "MLflow"):
        try:
            bring(store, stage, report)
        except ChangedFile as error:
            report.changed.append(str(error))
    _delete_empty_rows(store)
    if report.changed:
        raise UserError("\n".join(report.changed))
    return report


def bring(store: Store, stage: Stage, report: SyncReport) -> str:
    """Make sure that a record has exactly one complete run; return its id.

    Raises ChangedFile, before anything is changed, where a file differs from the record.
    """
    kind, key = stage.identity
    with store.target.claim(kind, key):
        runs = store.runs_of(kind, key)
        complete = [run for run in runs if run.data.tags.get(COMPLETE) == stage.digest]
        begun = [run for run in runs if COMPLETE not in run.data.tags]
        noted_id = read_run_id(stage.context.state)
        begun.sort(key=lambda run: run.info.run_id != noted_id)
        kept = (complete or begun)[:1]
        unchecked = not complete or complete[0].data.tags.get(CHECKED) != stage.digest
        if unchecked:
            stage.check_files()
        for run in runs:
            if run not in kept:
                store.delete(run)
        run_id = _make(store, stage, kept[0] if kept else None, bool(complete), report)
        if complete and unchecked:
            send_artifacts(store, run_id, stage)
            store.client.set_tag(run_id, CHECKED, stage.digest)
    if complete and unchecked:
        report.completed += 1
    elif complete:
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
    parent = store.row(kind, context.row, row_tags(context.tags)) if context.row else None
    tags = links(stage, report.runs, parent)
    if run is not None and run.info.run_name != context.name:
        store.client.update_run(run.info.run_id, name=context.name)
    if run is not None and complete:
        set_tags(store, run, {**context.tags, **tags})
        if parent is None and PARENT in run.data.tags:
            store.client.delete_tag(run.info.run_id, PARENT)
        return run.info.run_id
    tags |= {"run_key": key, "stage": kind}
    if stage.record.inputs:
        tags["inputs"] = " ".join(stage.record.inputs)
    if run is not None:
        try:
            return _finish(store, run, stage, tags, fresh=False)
        except Contradiction:
            store.delete(run)
    started = stage.ended_ms if context.state is None else _started(context.state, stage.ended_ms)
    identity = {"run_key": key, "stage": kind}
    run_id = store.create(kind, context.name, identity, started)
    return _finish(store, store.client.get_run(run_id), stage, tags, fresh=True)


def _finish(store: Store, run: "Run", stage: Stage, tags: dict[str, str], fresh: bool) -> str:
    fill(store, run, stage, tags, fresh)
    run_id = run.info.run_id
    store.client.set_tag(run_id, CHECKED, stage.digest)
    store.client.set_tag(run_id, COMPLETE, stage.digest)
    if store.target.owner:  # a server, which live runs use too
        write_run_id(stage.context.state, run_id)
    return run_id


def _started(state: Path, default: int) -> int:
    from clip4vla.tracking.attempts import read_attempts

    return min((int(row["started_ms"]) for row in read_attempts(state)), default=default)


def _delete_empty_rows(store: Store) -> None:
    """Delete parent runs whose rows were renamed or removed: they have no children any more."""
    runs = store.runs()
    parents = {run.data.tags.get(PARENT) for run in runs}
    for run in runs:
        if ROW in run.data.tags and run.info.run_id not in parents:
            store.client.delete_run(run.info.run_id)


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
