"""Train one run: `train(run, ...)` goes on where it stopped and publishes when it is done.

runs/<run_key>/state/        checkpoints, while training
runs/<run_key>/metrics.jsonl the curve with times of day, for trackers
runs/<run_key>/attempts.jsonl one line per attempt: how far, how long, why it ended
runs/<run_key>/final/        the finished outputs, from which `out` is (re)published
out/                         model.safetensors, metrics.jsonl, train.json
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from clip4vla.config.keys import run_key
from clip4vla.config.run import Finetune, Pretrain, sources_of
from clip4vla.config.settings import settings_of
from clip4vla.datasets.leaks import Leaks
from clip4vla.errors import RetryLater
from clip4vla.evaluation.device import pick_device, set_threads
from clip4vla.evaluation.reading import Caches, Manifests
from clip4vla.evaluation.start import start_hash, start_metadata
from clip4vla.files import (
    canonical_json,
    read_json,
    sha256_of,
    sha256_of_file,
    sole_owner,
    whole_file,
    write_json,
)
from clip4vla.models.checkpoint import write_checkpoint
from clip4vla.tracking.attempts import note_attempt
from clip4vla.tracking.sink import Sink
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.curve import publish_curve
from clip4vla.training.loop import SAVE_SECONDS, Trainer
from clip4vla.training.ranks import Ranks, joined
from clip4vla.training.setup import Job, Surroundings, set_up
from clip4vla.training.stop import Interrupted, Stop

OUTPUTS = ("model.safetensors", "metrics.jsonl", "train.json")


def train(
    run: Pretrain | Finetune,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
    state: Path,
    out: Path,
    workers: int = 1,
    max_seconds: float | None = None,
    save_seconds: float = SAVE_SECONDS,
    leaks: Leaks | None = None,
    frozen_cache: bool = True,
    sink: Sink | None = None,
) -> bool:
    """Train to the end, or until a time limit or signal, and write the outputs into `out`.

    Gives whether this is the rank that wrote them.

    A finished run of the same identity (config, manifests, start weights, substitution) only
    publishes again. Raises RetryLater, saved, when stopped; UserError when the state is another
    run's, data are unusable or the loss is not finite. workers: CPU threads to compute with, and
    (above 1) processes that read clips. save_seconds: the most work, in time, that a kill can cost;
    the end of an epoch is saved too. leaks: clips that pre-training leaves out. frozen_cache: what
    frozen towers say of a clip is computed once, for all epochs and runs
    (`clip4vla.training.frozen`); results are equal. sink: is told what of the curve is safe.
    """
    stop = Stop(max_seconds)
    set_threads(workers)
    device = pick_device()
    with joined(device) as ranks, stop, _owner(state, ranks):
        identity = identify(run, manifests, start, weights, substitution)
        if leaks:
            identity["leaks"] = sha256_of(canonical_json(leaks.facts))
        checkpoints = Checkpoints(state / "state", identity)
        final = state / "final"
        if ranks.from_leader((final / "identity.json").exists()):
            checkpoints.check(read_json(final / "identity.json"), final)
        else:
            caches = Caches(manifests, leaks)
            given = caches, start, weights, substitution, device, workers, ranks, frozen_cache
            with _attempt(state, stop, ranks) as progress:
                around = Surroundings(*given)
                told = sink or Sink()
                _train(run, around, checkpoints, state, stop, progress, save_seconds, told)
        if ranks.leads:
            checkpoints.clear()
            for name in OUTPUTS:
                with whole_file(out / name) as temporary:
                    shutil.copyfile(final / name, temporary)
        return ranks.leads


@contextlib.contextmanager
def _owner(state: Path, ranks: Ranks) -> Iterator[None]:
    """The first rank holds the folder of the run's state for all of them, and tidies it."""
    with contextlib.ExitStack() as held:
        if ranks.leads:
            held.enter_context(sole_owner(state))
            for stale in state.rglob(".*.tmp"):  # half a file of an attempt that was killed
                stale.unlink()
        ranks.from_leader()
        yield


def identify(
    run: Pretrain | Finetune,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
) -> dict[str, str | None]:
    """Hashes of everything that decides the result: what state must agree with to go on."""
    named = weights.get(run.model.weights) if start is None else None
    data = {
        f"{source.dataset}/cache-{source.cache_id}": sha256_of_file(
            manifests[source.dataset, source.cache_id]
        )
        for source in sources_of(run)
    }
    return {
        "config": sha256_of(canonical_json(run.scientific())),
        "data manifest": sha256_of(canonical_json(data)),
        "start weights": start_hash(start if named is None else named),
        "substitution": None if substitution is None else sha256_of_file(substitution),
    }


def _train(
    run: Pretrain | Finetune,
    around: Surroundings,
    checkpoints: Checkpoints,
    state: Path,
    stop: Stop,
    progress: TrainState,
    save_seconds: float,
    sink: Sink,
) -> None:
    """Set up, train and finish; `progress` follows along for the line of this attempt."""
    try:
        with stop.interrupting():
            job = set_up(run, around)
    except Interrupted:
        raise RetryLater(f"stopped before the first step ({stop.reason})") from None
    trainer = Trainer(
        job.task,
        job.batches,
        run.optimiser,
        checkpoints,
        state,
        around.device,
        seed=run.seed,
        select=isinstance(run, Finetune) and run.selection == "best_val",
        save_seconds=save_seconds,
        ranks=around.ranks,
        state=progress,
        sink=sink,
    )
    trainer.run(stop)
    if around.ranks.leads:
        _finish(run, around, checkpoints, state, job, progress)


def _finish(
    run: Pretrain | Finetune,
    around: Surroundings,
    checkpoints: Checkpoints,
    state: Path,
    job: Job,
    reached: TrainState,
) -> None:
    """Write the outputs into the state's own folder; identity.json, the last, makes them count."""
    final = state / "final"
    selection = run.selection if isinstance(run, Finetune) else "last"
    selected = reached.best_epoch if selection == "best_val" else reached.epoch
    metadata = {
        "run_key": run_key(run),
        "stage": run.stage,
        "task": run.task if isinstance(run, Finetune) else None,
        "selection": selection,
        "selected_epoch": selected,
    }
    dropped = [facts["leaks_dropped"] for facts in job.facts["train"] if "leaks_dropped" in facts]
    if dropped:
        metadata["leaks_dropped"] = sum(dropped)
    elif "leaks_dropped" in (before := start_metadata(around.start)):
        metadata["leaks_dropped"] = before["leaks_dropped"]
    if job.classes is not None:
        metadata["classes"] = job.classes
    model = job.task.model
    publish_curve(state / "metrics.jsonl", final / "metrics.jsonl")
    value = reached.best_value if selection == "best_val" else reached.last_value
    measured = {
        "manifests": around.caches.hashes(),
        "val_metric": job.task.selects if value is not None else None,
        "val_value": value,
    }
    settings = settings_of(run, job.classes)
    write_checkpoint(final / "model.safetensors", model, settings, {**metadata, **measured})
    summary = {
        **metadata,
        **measured,
        "config_sha256": checkpoints.identity["config"],
        "train_clips": sum(facts["clips"] for facts in job.facts["train"]),
        "val_clips": job.facts["val"]["clips"] if job.facts["val"] else 0,
        "silent_left_out": sum(facts["silent_left_out"] for facts in job.facts["train"]),
        "data": job.facts,
        "steps": reached.step,
        "samples": reached.samples,
        "epochs": reached.epoch,
        "batch_size": job.batches.size,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "torch": torch.__version__,
        "parent": {
            "run_key": getattr(run, "start", None),
            "sha256": checkpoints.identity["start weights"],
        },
        "substitution": {
            "run_key": getattr(run, "substitution", None),
            "sha256": checkpoints.identity["substitution"],
        },
    }
    write_json(final / "train.json", summary)
    write_json(final / "identity.json", checkpoints.identity)


@contextlib.contextmanager
def _attempt(state: Path, stop: Stop, ranks: Ranks) -> Iterator[TrainState]:
    """Append to attempts.jsonl how far this attempt came; a killed one leaves no line."""
    began, progress, end = time.time(), TrainState(), "error"
    try:
        yield progress
        end = "finished"
    except RetryLater:
        end = stop.reason or "stopped"
        raise
    finally:
        if ranks.leads:
            facts = {"step": progress.step, "ranks": ranks.world}
            note_attempt(state, began, end, **facts)
