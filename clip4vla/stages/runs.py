"""Stages of a run: training, substitution and evaluation."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_files, write_json
from clip4vla.common.hardware import ReadingHardware
from clip4vla.common.late_packages import without_collection
from clip4vla.common.log import log
from clip4vla.config import layout
from clip4vla.config.load import Config
from clip4vla.config.plan import TRAINED, Plan, command_of
from clip4vla.config.run import Evaluate, Finetune, Pretrain, Run, Substitute, sources_of
from clip4vla.launch.request import Request
from clip4vla.runs.summaries import numbers
from clip4vla.stages.run_inputs import donors_of, leaks_of, manifests_of, start_of, weights_of
from clip4vla.stages.tracking import coverage_of, datasets_of, tags_of, tracked
from clip4vla.tracking import write_record
from clip4vla.tracking.attempts import attempt
from clip4vla.tracking.recorded import check_recorded

if TYPE_CHECKING:
    from clip4vla.training.switches import Switches

RANKS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # variables with their number
OUTPUT_SECONDS = 120.0
MARGIN = 0.1  # share of a job's time that is kept for the last step and saving
MARGIN_SECONDS = 600.0  # at most


def train(
    plan: Plan, named: str, hardware: ReadingHardware, max_seconds: float | None = None
) -> None:
    """Pre-train or fine-tune; write model.safetensors, train.json and metrics.jsonl.

    named: the run's key or row. In a Slurm job, save and stop before the job's time limit.
    """
    key = plan.key_of(named, TRAINED)
    run = plan.runs[key]
    if not isinstance(run, Pretrain | Finetune):
        raise _other_stage(key, run)
    several = any(os.environ.get(name, "1") != "1" for name in RANKS)
    if not several and _is_finished(plan, key):
        return  # several ranks might see the outputs at different times
    with without_collection():
        from clip4vla.launch.queue import seconds_left
        from clip4vla.training.train import train

    out = Path(layout.result_dir(key))
    manifests, start, weights = manifests_of(run), start_of(plan, run), weights_of(plan, run)
    substitution = donors_of(run.substitution) if isinstance(run, Finetune) else None
    leaks = leaks_of(run) if isinstance(run, Pretrain) else None
    with tracked(plan, key) as tracker:
        leads = train(
            run,
            manifests=manifests,
            initial_weights=start,
            weights=weights,
            substitution=substitution,
            leaks=leaks,
            switches=switches_of(plan.config),
            state=Path(layout.state_dir(key)),
            out=out,
            hardware=hardware,
            max_seconds=seconds_to_train(seconds_left()) if max_seconds is None else max_seconds,
            tracker=tracker,
        )
        if leads:
            record = _finish(
                plan,
                key,
                out,
                summary="train.json",
                curve="metrics.jsonl",
                model="model.safetensors",
            )
            tracker.finished(record)


def _is_finished(plan: Plan, key: str) -> bool:
    """Return, and say, whether a run's outputs are intact and newer than what it was made from."""
    run, folder = plan.run(key), Path(layout.result_dir(key))
    record = folder / "record.json"  # the last of the outputs
    if not layout.is_done(run.stage, key):
        return False
    ended = record.stat().st_mtime
    if any(path.is_file() and path.stat().st_mtime > ended for path in _sources(plan, key)):
        return False
    try:
        intact = all(
            check_recorded(path, key) for path in _outputs(key, run.stage) if path != record
        )
    except UserError:  # changed since then: made again
        return False
    if intact:
        log.info(f"run {key}: finished, see {folder}. To run it again, delete {record}")
    return intact


def _sources(plan: Plan, key: str) -> list[Path]:
    """Return the files that a run is made from, as they are named without reading any."""
    run = plan.run(key)
    paths = [Path(layout.manifest(source.dataset, source.cache_id)) for source in sources_of(run)]
    paths += [Path(layout.result_dir(parent), "record.json") for parent in plan.parents(key)]
    weights = [plan.config.weights[name].path for name in plan.weights_of(run)]
    return paths + [path for path in weights if path]


def switches_of(config: Config) -> "Switches":
    """Return the config's switches of speed and memory."""
    from clip4vla.cache.clips import SAMPLED
    from clip4vla.training.switches import Switches

    return Switches(
        frozen_cache=config.frozen_cache,
        activation_checkpointing=config.activation_checkpointing,
        compile=config.compile,
        check_every=1 if config.check_reads == "all" else SAMPLED,
    )


def launch(plan: Plan, named: str, launcher: str, request: Request) -> None:
    """Train through a launcher, which starts `clip4vla train KEY` on every rank."""
    key = plan.key_of(named, TRAINED)
    run = plan.runs[key]
    if launcher not in ("local", "slurm"):
        raise UserError(f"--launcher {launcher}: unknown. Fix: pass local or slurm")
    if launcher == "local" and request.nodes > 1:
        raise UserError(f"--nodes {request.nodes}: this is one machine. Fix: pass --launcher slurm")
    hardware = request.hardware
    if _is_finished(plan, key):
        return
    arguments = ["train", key, "--threads", str(hardware.threads)]
    if hardware.readers is not None:
        arguments += ["--readers", str(hardware.readers)]
    if launcher == "slurm":
        from clip4vla.launch.slurm import is_finished, run_on_slurm

        names = ("CLIP4VLA_CONFIG", "CLIP4VLA_SET")
        variables = {name: os.environ[name] for name in names if name in os.environ}
        state = Path(layout.state_dir(key))
        run_on_slurm(f"{run.stage}-{key}", arguments, request, state, variables)
        _await(lambda: is_finished(state), state)
        if any(not path.is_file() for path in _outputs(key, run.stage)):
            train(plan, key, hardware)  # finished: publishes again
    else:
        from clip4vla.common.gpus import claim
        from clip4vla.launch.local import run_here

        if request.gpus_per_node:
            claim(request.gpus_per_node)
        if request.tasks_per_node > 1:
            run_here(arguments, request.tasks_per_node)
        else:
            train(plan, key, hardware)


def seconds_to_train(left: float | None) -> float | None:
    """Return how long to train in a job with this many seconds left (None: no limit)."""
    return None if left is None else left - min(MARGIN * left, MARGIN_SECONDS)


def _outputs(key: str, stage: str) -> list[Path]:
    return [Path(layout.result_dir(key), name) for name in layout.RUN_FILES[stage]]


def _await(holds: Callable[[], bool], folder: Path) -> None:
    """Wait until another machine's outputs appear, which network file systems delay."""
    deadline = time.monotonic() + OUTPUT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder}: the job has completed, but no outputs found. Fix: use a working "
                "directory on a file system that all nodes share"
            )
        time.sleep(1)


def substitute(plan: Plan, named: str, hardware: ReadingHardware) -> None:
    """Find donors; write substitution.tsv, substitute.json and donors.html."""
    key = plan.key_of(named, ["substitute"])
    run = plan.runs[key]
    if not isinstance(run, Substitute):
        raise _other_stage(key, run)
    if _is_finished(plan, key):
        return
    with without_collection():
        from clip4vla.cache.clips import ClipCache
        from clip4vla.inference.donors import substitute
        from clip4vla.pages.donors import write_donors
        from clip4vla.stages.examples import local_media

    out = Path(layout.result_dir(key))
    manifests, start, weights = manifests_of(run), start_of(plan, run), weights_of(plan, run)
    with tracked(plan, key) as tracker:
        with attempt(Path(layout.state_dir(key))):
            substitute(
                run, manifests=manifests, start=start, weights=weights, out=out, hardware=hardware
            )
            manifest = layout.manifest(run.donors.dataset, run.donors.cache_id)
            write_donors(ClipCache(manifest), out, address=local_media(run.donors.dataset, out))
        tracker.finished(_finish(plan, key, out, summary="substitute.json"))


def evaluate(plan: Plan, named: str, hardware: ReadingHardware) -> None:
    """Score a checkpoint; write metrics.json, predictions.parquet and examples.html."""
    key = plan.key_of(named)
    run = plan.runs[key]
    if not isinstance(run, Evaluate):
        raise _other_stage(key, run)
    if _is_finished(plan, key):
        return
    with without_collection():
        from clip4vla.cache.clips import ClipCache
        from clip4vla.datasets import benchmark_of, official_clips
        from clip4vla.datasets.videos import videos_of
        from clip4vla.evaluation.evaluate import evaluate
        from clip4vla.pages.examples import write_examples
        from clip4vla.stages.examples import local_media
        from clip4vla.stages.lineage import made_with, seen_in_pretraining

    out = Path(layout.result_dir(key))
    version = run.test.dataset
    _, dataset = plan.dataset_of(version)
    weights = weights_of(plan, run)
    first = sha256_of_files([*weights.values()]) if weights else None
    lineage = made_with(plan, run, first)
    manifests, start = manifests_of(run), start_of(plan, run)
    substitution, text_substitution = donors_of(run.substitution), donors_of(run.text_substitution)
    with tracked(plan, key) as tracker:
        with attempt(Path(layout.state_dir(key))):
            evaluate(
                run,
                manifests=manifests,
                start=start,
                weights=weights,
                substitution=substitution,
                text_substitution=text_substitution,
                out=out,
                run_key=key,
                expected=official_clips(dataset, run.test.split),
                benchmark=benchmark_of(dataset, run.test.split),
                made_with=lineage,
                seen=seen_in_pretraining(plan, run),
                videos=None if run.query == "text" else videos_of(layout.data_dir(version)),
                frozen_cache=plan.config.frozen_cache,
                hardware=hardware,
            )
            manifest = layout.manifest(run.test.dataset, run.test.cache_id)
            write_examples(ClipCache(manifest), out, address=local_media(version, out))
        tracker.finished(_finish(plan, key, out, summary="metrics.json"))


def _other_stage(key: str, run: Run) -> UserError:
    return UserError(
        f"run {key}: its stage is {run.stage}. Fix: run `{command_of(run.stage, key)}`"
    )


def _finish(
    plan: Plan,
    key: str,
    out: Path,
    summary: str,
    curve: str | None = None,
    model: str | None = None,
) -> Path:
    """Write the resolved config and the record, the last outputs of a run; return the record."""
    run = plan.run(key)
    write_json(out / "config.json", run.scientific())
    others = [name for name in layout.RUN_FILES[run.stage] if name not in ("record.json", model)]
    data = [f"{source.dataset}/{source.cache_id}" for source in sources_of(run)]
    facts, datasets = read_json(out / summary), datasets_of(run)
    tags = {"run_key": key, "stage": run.stage, "data": ", ".join(dict.fromkeys(data))}
    tags |= {**tags_of(run), "coverage": coverage_of(datasets)}
    named = ("protocol", "selection", "neighbours")
    tags |= {name: facts[name] for name in named if facts.get(name)}
    write_record(
        out / "record.json",
        kind=run.stage,
        key=key,
        name=f"{run.stage} {key}",
        params=run.scientific(),
        tags=tags,
        metrics=_short(numbers(facts)),
        curve=out / curve if curve else None,
        artifacts=[out / name for name in others],
        inputs=[*dict.fromkeys(data), *plan.parents(key)],
        model=out / model if model else None,
        datasets=datasets,
    )
    return out / "record.json"


def _short(metrics: dict[str, float]) -> dict[str, float]:
    """Shorten names to fit a column: `galleries/all/metrics/t2v_R1` -> `all/t2v_R1`."""
    shortened = {}
    for name, value in metrics.items():
        gallery, _, metric = name.removeprefix("galleries/").partition("/metrics/")
        shortened[f"{gallery}/{metric}" if metric else gallery] = value
    return shortened
