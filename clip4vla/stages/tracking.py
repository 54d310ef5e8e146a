"""Names, tags and target of a plan's runs in MLflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clip4vla.common.errors import UserError
from clip4vla.common.extras import require
from clip4vla.common.files import read_json, sha256_of_file, write_json
from clip4vla.common.log import log
from clip4vla.common.provenance import provenance
from clip4vla.config import layout
from clip4vla.config.plan import Cell, Plan, command_of
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Source, Substitute, sources_of
from clip4vla.tracking.context import Context, Target, workspace
from clip4vla.tracking.record import flat
from clip4vla.tracking.tracker import Tracker

FOLDER = Path("mlflow")
TABLES = "tables"  # key of the record of the tables
SEEDED = ("finetune", "evaluate")  # stages whose runs are children of their row's run


def target_of(plan: Plan, uri: str | None = None) -> Target:
    """Return where runs go: `uri`, else that of the config, else an sqlite file below mlflow/."""
    tracking = plan.config.tracking
    if uri is not None:
        sink = "deferred" if tracking.sink == "off" else tracking.sink
        changed = tracking.model_dump() | {"sink": sink, "uri": uri}
        try:
            tracking = type(tracking).model_validate(changed)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"--uri: {message}") from None
    locks = FOLDER / "locks"
    if tracking.uri is not None and tracking.is_server:
        return Target(
            uri=tracking.uri,
            experiment=tracking.experiment,
            locks=locks,
            owner=workspace(Path("runs")),
        )
    path = Path((tracking.uri or "sqlite:///mlflow/mlflow.db").removeprefix("sqlite:///")).resolve()
    return Target(
        uri=f"sqlite:///{path}",
        experiment=tracking.experiment,
        locks=locks,
        artifacts=path.parent / "artifacts",
    )


def contexts_of(plan: Plan) -> dict[str, Context]:
    """Return the name, tags and rows of every run, and those of the datasets and the tables."""
    names, rows, seeds = plan.names(), plan.rows(), _seeds_of(plan)
    contexts = _other_contexts(plan)
    for key, run in plan.runs.items():
        cell = rows[key][0]
        places = dict.fromkeys(f"{item.table}/{item.row}" for item in rows[key])
        tags = {"table": cell.table, "row": cell.row, "dataset": cell.dataset}
        tags |= {"rows": ", ".join(places)}
        seed = _seed(run, cell)
        if seed is not None:
            tags["seed"] = str(seed)
        command = command_of(run.stage, key)
        note = f"{run.stage} on {cell.dataset}{'' if seed is None else f', seed {seed}'}"
        wanted = ", ".join(f"`{name}`" for name in places)
        tags["mlflow.note.content"] = (
            f"{note}, for {wanted}. Files: `{layout.result_dir(key)}`; by hand: `{command}`."
        )
        first = f"{cell.table}/{cell.row}/{cell.dataset}"
        others = [name for name in seeds.get(key, ()) if name != first]
        contexts[key] = Context(
            name=names[key],
            tags=tags | _source(command),
            rows=(first, *others) if run.stage in SEEDED else (),
            state=Path(layout.state_dir(key)),
        )
    return contexts


def _seed(run: Run, cell: Cell) -> int | None:
    match run:
        case Pretrain() | Finetune():
            return run.seed
        case Evaluate():
            return cell.seed
        case Substitute():
            return None


def _seeds_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return, for each evaluation and its fine-tuning, the rows whose seed it is."""
    seeds: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        for key in (cell.run_key, *plan.parents(cell.run_key)):
            seeds.setdefault(key, {})[f"{cell.table}/{cell.row}/{cell.dataset}"] = None
    return {key: tuple(rows) for key, rows in seeds.items()}


def _other_contexts(plan: Plan) -> dict[str, Context]:
    """Return the contexts of the frozen datasets, which begin with their plan, and the tables."""
    contexts = {
        f"{version}/{cache_id}": Context(
            name=f"{version}/{cache_id}",
            tags={
                "dataset": plan.versions[version],
                **_source(f"clip4vla data freeze {version} {cache_id}"),
            },
            began=Path(layout.data_dir(version), "plan.parquet"),
        )
        for version, cache_id in plan.caches
    }
    name = "tables " + " ".join(plan.tables)
    source = _source("clip4vla tables page")
    return {**contexts, TABLES: Context(name, source, state=Path(layout.state_dir(TABLES)))}


def _source(command: str) -> dict[str, str]:
    """Return tags for MLflow's column Source: the command that makes a stage again."""
    return {"mlflow.source.name": command, "mlflow.source.type": "LOCAL"}


@contextmanager
def tracked(plan: Plan, key: str) -> Iterator[Tracker]:
    """Yield the tracker of a running stage: a live one on the first rank if the config says so."""
    from clip4vla.tracking.live import Spec, describe, live
    from clip4vla.training.ranks import ranks_of

    tracking = plan.config.tracking
    if tracking.sink != "live" or not ranks_of(os.environ)[0].leads:
        yield Tracker()
        return
    require("tracking", "tracking.sink: live")
    run, curve = plan.run(key), Path(layout.state_dir(key), "metrics.jsonl")
    spec = Spec(
        target=target_of(plan),
        kind=run.stage,
        key=key,
        context=contexts_of(plan)[key],
        params=flat(run.scientific()),
        tags={**tags_of(run), **describe(provenance())},
        curve=curve if isinstance(run, Pretrain | Finetune) else None,
        seconds=tracking.seconds,
    )
    with live(spec) as tracker:
        yield tracker


def tags_of(run: Run) -> dict[str, str]:
    """Return the tags that follow from the config of a run."""
    versions = dict.fromkeys(source.dataset for source in sources_of(run))
    tags = {"data_version": ", ".join(versions), "code_version": str(run.code_version)}
    if isinstance(run, Finetune):
        tags["selection"] = run.selection
    return tags


def datasets_of(run: Run) -> list[dict[str, Any]]:
    """Return the splits that a run read, with the digest of their manifest and clip counts."""
    datasets: list[dict[str, Any]] = []
    for source in sources_of(run):
        place = layout.manifest(source.dataset, source.cache_id)
        counts = read_json(place)["splits"].get(source.split, {})
        known = {name: counts[name] for name in ("planned", "usable", "silent") if name in counts}
        datasets.append(
            {
                "name": f"{source.dataset}/{source.split}",
                "digest": sha256_of_file(place)[:32],
                "context": _context(run, source),
                "source": place,
                **known,
            }
        )
    return datasets


def _context(run: Run, source: Source) -> str:
    match run:
        case Pretrain():
            return "train"
        case Substitute():
            return "donors" if source == run.donors else "queries"
        case Finetune():
            selected_on = run.selected_on
            return "validation" if selected_on and source == selected_on[0] else "train"
        case Evaluate():
            return "test"


def coverage_of(datasets: list[dict[str, Any]]) -> str:
    """Describe usable, planned and silent clips of every split."""
    return "; ".join(
        f"{item['name']}: {item['usable']} of {item['planned']}, {item['silent']} silent"
        for item in datasets
        if "usable" in item
    )


def sync(plan: Plan, uri: str | None = None) -> None:
    """Send the records of finished stages to MLflow; write synced.json when none is missing."""
    from clip4vla.tracking.sync import sync

    if plan.config.tracking.sink == "off" and uri is None:
        raise UserError(
            "tracking: sink is off. Fix: set it to deferred, or pass --uri to `clip4vla sync`"
        )
    records = [Path(path) for path in layout.records(plan)]
    finished = [path for path in records if path.is_file()]
    contexts = contexts_of(plan)
    target = target_of(plan, uri)
    done = sync(finished, target, contexts, whole=True)
    kinds = ("added", "skipped", "completed", "replaced", "superseded")
    counts = {name: getattr(done, name) for name in kinds}
    print(f"{target.uri}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    print(f"view them: {done.command or target.uri}")
    if finished == records and uri is None:
        names = plan.names()
        write_json(FOLDER / "synced.json", {"runs": len(finished), "names": names})
    elif finished != records:
        left = len(records) - len(finished)
        log.info(f"{left} of {len(records)} stages have not finished yet")
