"""Training, substitution and evaluation of one run, by its key."""

from pathlib import Path

from clip4vla.config import layout
from clip4vla.config.plan import WEIGHTS, Plan
from clip4vla.config.run import sources_of
from clip4vla.errors import UserError
from clip4vla.files import read_json, sha256_of_file, write_json
from clip4vla.stages.summaries import numbers
from clip4vla.tracking import write_record


def train(plan: Plan, key: str, threads: int, max_seconds: float | None) -> None:
    """Pre-train or fine-tune; leaves model.safetensors, train.json and metrics.jsonl."""
    from clip4vla.training.train import train

    run = plan.run(key)
    if run.stage not in ("pretrain", "finetune"):
        raise UserError(f"run {key} is of stage {run.stage}: use `clip4vla {run.stage} {key}`")
    out = Path(layout.result_dir(key))
    train(
        run,
        manifests=_manifests(run),
        start=_start(plan, run),
        weights=_weights(plan, run),
        substitution=_substitution(run),
        state=Path(layout.state_dir(key)),
        out=out,
        workers=threads,
        max_seconds=max_seconds,
        frozen_cache=plan.config.frozen_cache,
    )
    _finish(plan, key, out, "train.json", curve="metrics.jsonl", model="model.safetensors")


def substitute(plan: Plan, key: str, threads: int) -> None:
    """Find donors; leaves substitution.tsv and substitute.json."""
    from clip4vla.evaluation.substitution import substitute

    run = _expect(plan, key, "substitute")
    out = Path(layout.result_dir(key))
    substitute(
        run,
        manifests=_manifests(run),
        start=_start(plan, run),
        weights=_weights(plan, run),
        out=out,
        workers=threads,
    )
    _finish(plan, key, out, "substitute.json")


def evaluate(plan: Plan, key: str, threads: int) -> None:
    """Score a checkpoint; leaves metrics.json and predictions.parquet."""
    from clip4vla.evaluation.evaluate import evaluate

    run = _expect(plan, key, "evaluate")
    out = Path(layout.result_dir(key))
    _, dataset = plan.dataset_of(run.test.dataset)
    evaluate(
        run,
        run_key=key,
        manifests=_manifests(run),
        start=_start(plan, run),
        weights=_weights(plan, run),
        substitution=_substitution(run),
        expected=dataset.expected.get(run.test.split),
        out=out,
        workers=threads,
    )
    _finish(plan, key, out, "metrics.json")


def _expect(plan: Plan, key: str, stage: str):
    run = plan.run(key)
    if run.stage != stage:
        raise UserError(f"run {key} is of stage {run.stage}, not {stage}; see `clip4vla plan`")
    return run


def _manifests(run) -> dict[tuple[str, str], Path]:
    pairs = {(source.dataset, source.cache_id) for source in sources_of(run)}
    manifests = {pair: Path(layout.manifest(*pair)) for pair in sorted(pairs)}
    for (version, _), path in manifests.items():
        if not path.is_file():
            raise UserError(f"{path}: {version} is not frozen yet; run `snakemake data`")
    return manifests


def _weights(plan: Plan, run) -> dict[str, Path]:
    """Named weights; those that the run reads have the hash that the config gives for them."""
    start = getattr(run, "start", None) or ""
    named = {run.model.weights} if not start else {start.removeprefix(WEIGHTS)}
    for name in named & plan.config.weights.keys():
        item = plan.config.weights[name]
        if not item.path.is_file():
            raise UserError(f"{item.path}: weights {name} are missing; put the file there")
        if item.sha256 and (found := sha256_of_file(item.path)) != item.sha256:
            raise UserError(
                f"{item.path}: sha256 is {found}, but weights.{name}.sha256 says {item.sha256}; "
                "fetch the file again, or correct the config"
            )
    return plan.weight_files()


def _start(plan: Plan, run) -> Path | None:
    """The weights that a run starts from; None: CLIP itself."""
    if getattr(run, "start", None) is None:
        return None
    if run.start.startswith(WEIGHTS):
        return plan.weight_files()[run.start.removeprefix(WEIGHTS)]
    path = Path(layout.result_dir(run.start), "model.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: not there yet; run `clip4vla train {run.start}`")
    return path


def _substitution(run) -> Path | None:
    if getattr(run, "substitution", None) is None:
        return None
    path = Path(layout.result_dir(run.substitution), "substitution.tsv")
    if not path.is_file():
        raise UserError(f"{path}: no donors yet; `clip4vla substitute {run.substitution}`")
    return path


def _finish(
    plan: Plan,
    key: str,
    out: Path,
    summary: str,
    curve: str | None = None,
    model: str | None = None,
) -> None:
    """Write the resolved config and the record; last, so that they stand for the whole run."""
    run = plan.run(key)
    write_json(out / "config.json", run.scientific())
    others = [name for name in layout.RUN_FILES[run.stage] if name not in ("record.json", model)]
    data = [f"{source.dataset}/{source.cache_id}" for source in sources_of(run)]
    write_record(
        out / "record.json",
        kind=run.stage,
        key=key,
        name=f"{run.stage} {key}",
        params=run.scientific(),
        tags={"run_key": key, "stage": run.stage, "data": ", ".join(dict.fromkeys(data))},
        metrics=numbers(read_json(out / summary)),
        curve=out / curve if curve else None,
        artifacts=[out / name for name in others],
        inputs=[*dict.fromkeys(data), *plan.parents(key)],
        model=out / model if model else None,
    )
