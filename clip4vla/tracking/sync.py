"""Replay records into an MLflow store: idempotent, and safe to kill at any moment.

A run carries the tag `record_sha256` only once everything of it is there, and that tag is set
last. The next sync skips such runs, deletes those without the tag, and replaces runs whose
record has changed. Deleted runs can be restored in MLflow; `mlflow gc` removes them for good.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from clip4vla.errors import UserError
from clip4vla.files import sole_owner
from clip4vla.progress import track
from clip4vla.tracking.record import Record, read_record
from clip4vla.tracking.store import Store

COMPLETE = "record_sha256"


@dataclass
class SyncReport:
    """What a sync did, and how to look at the store."""

    added: int = 0
    skipped: int = 0
    replaced: int = 0  # the record had changed
    redone: int = 0  # an earlier sync was killed in the middle of it
    runs: dict[str, str] = field(default_factory=dict)  # key of a record -> its MLflow run
    uri: str = ""
    command: str = ""


def sync(
    records: list[Path],
    store: str | Path,
    artifacts_root: str | Path,
    experiment_prefix: str = "clip4vla",
    names: dict[str, str] | None = None,
) -> SyncReport:
    """Bring the MLflow store (an sqlite file, made when absent) up to date with the records.

    One experiment per kind, `<experiment_prefix>/<kind>`; a run per record, with params, tags,
    metrics, the whole curve, artifacts (copied below `artifacts_root`) and, for weights, a
    LoggedModel. A run links to those of its inputs by the tags `parent.<key>`. `names` (key ->
    readable name, such as the first table row with it) may change at any time. Raises UserError
    for a broken record or two records of one stage.
    """
    store = Path(store).resolve()
    found = _in_order(_read(records))
    uri = f"sqlite:///{store}"
    report = SyncReport(uri=uri, command=f"mlflow ui --backend-store-uri {shlex.quote(uri)}")
    with sole_owner(store.parent):
        target = Store(store, Path(artifacts_root).resolve(), experiment_prefix)
        known = target.runs()
        run_ids = {
            key: run.info.run_id
            for (_, key), runs in known.items()
            for run in runs
            if COMPLETE in run.data.tags
        }
        for path, record, digest in track(found, "MLflow"):
            parents = {f"parent.{key}": run_ids[key] for key in record.inputs if run_ids.get(key)}
            run_ids[record.key] = _bring(
                target,
                path,
                record,
                digest,
                parents,
                known.get((record.kind, record.key), []),
                report,
            )
            report.runs[record.key] = run_ids[record.key]
            if name := (names or {}).get(record.key):
                target.rename(run_ids[record.key], name)
    return report


def _bring(target, path, record, digest, parents, runs, report) -> str:
    """Make sure that exactly one complete run stands for a record; return its id."""
    good = [run for run in runs if run.data.tags.get(COMPLETE) == digest]
    for run in runs:
        if run not in good[:1]:
            target.delete(run)
    if good:
        report.skipped += 1
        tags = good[0].data.tags
        for tag, value in parents.items():  # an input was replaced since
            if tags.get(tag) != value:
                target.client.set_tag(good[0].info.run_id, tag, value)
        return good[0].info.run_id
    run_id = target.write(path, record, parents)
    target.client.set_tag(run_id, COMPLETE, digest)
    if not runs:
        report.added += 1
    elif any(COMPLETE in run.data.tags for run in runs):
        report.replaced += 1
    else:
        report.redone += 1
    return run_id


def _read(paths: list[Path]) -> dict[tuple[str, str], tuple[Path, Record, str]]:
    found: dict[tuple[str, str], tuple[Path, Record, str]] = {}
    for path in sorted(Path(path) for path in paths):
        record, digest = read_record(path)
        identity = (record.kind, record.key)
        if identity in found:
            raise UserError(
                f"{path}: {record.kind} {record.key} is recorded in {found[identity][0]} too; "
                "give one of them only"
            )
        found[identity] = (path, record, digest)
    return found


def _in_order(found: dict) -> list[tuple[Path, Record, str]]:
    """Inputs before what is built on them, else in the order of paths."""
    by_key: dict[str, list] = {}
    for item in found.values():
        by_key.setdefault(item[1].key, []).append(item)
    ordered, seen = [], set()

    def visit(item) -> None:
        if item[0] in seen:
            return
        seen.add(item[0])
        for key in item[1].inputs:
            for parent in by_key.get(key, []):
                visit(parent)
        ordered.append(item)

    for item in found.values():
        visit(item)
    return ordered
