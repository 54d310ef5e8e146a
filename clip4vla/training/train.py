"""Train one run: `train(run, ...)` goes on where it stopped and publishes when it is done.

runs/<run_key>/state/        checkpoints, while training
runs/<run_key>/metrics.jsonl the curve with times of day and speeds, for trackers
runs/<run_key>/attempts.jsonl one line per attempt: how far, how long, on what, why it ended
runs/<run_key>/final/        the finished outputs, from which `out` is (re)published
out/                         model.safetensors, metrics.jsonl, train.json; cost.json, which alone
                             differs between equal runs and is no declared output
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.checkpoints.initial_weights import start_hash, start_metadata
from clip4vla.common.device import take
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import (
    canonical_json,
    read_json,
    sha256_of,
    sha256_of_file,
    sole_owner,
    whole_file,
    write_json,
)
from clip4vla.common.hardware import INLINE, ReadingHardware
from clip4vla.config.keys import run_key
from clip4vla.config.run import Finetune, Pretrain, sources_of
from clip4vla.config.settings import settings_of
from clip4vla.datasets.leaks import Leaks
from clip4vla.loading.loader import Caches, Manifests
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.attempts import cost_of, recorded
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.curve import publish_curve
from clip4vla.training.loop import SAVE_SECONDS, Trainer
from clip4vla.training.meter import Meter
from clip4vla.training.ranks import Ranks, joined
from clip4vla.training.selection import choice_of
from clip4vla.training.setup import External, Job, set_up
from clip4vla.training.small_batches import describe, small_batches
from clip4vla.training.stop import Interrupted, Stop
from clip4vla.training.switches import Switches

FILES = "files.json"  # in final/: sha256 of the outputs
OUTPUTS = ("model.safetensors", "metrics.jsonl", "train.json")


def train(
    run: Pretrain | Finetune,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
    state: Path,
    out: Path,
    hardware: ReadingHardware = INLINE,
    max_seconds: float | None = None,
    save_seconds: float = SAVE_SECONDS,
    leaks: Leaks | None = None,
    switches: Switches = Switches(),
    sink: Tracker | None = None,
) -> bool:
    """Train to the end, or until a time limit or signal, and write the outputs into `out`.

    Gives whether this is the rank that wrote them.

    A finished run of the same identity (config, manifests, start weights, substitution) only
    publishes again. Raises RetryLater, saved, when stopped; UserError when the state is another
    run's, data are unusable or the loss is not finite. hardware: which device
    and cores to take. save_seconds: the most work, in time, that a kill can cost;
    the end of an epoch is saved too. leaks: clips that pre-training leaves out. sink: is told what
    of the curve is safe.
    """
    stop = Stop(max_seconds)
    device, workers = take(hardware)
    with joined(device) as ranks, stop, _owner(state, ranks, stop):
        identity = identify(run, manifests, start, weights, substitution)
        if leaks:
            identity["leaks"] = sha256_of(canonical_json(leaks.facts))
        checkpoints = Checkpoints(state / "state", identity)
        final = state / "final"
        if ranks.from_leader((final / "identity.json").exists()):
            checkpoints.check(_facts_of(final / "identity.json"), final)
        else:
            external = External(
                caches=Caches(manifests, leaks, switches.check_every),
                start=start,
                weights=weights,
                substitution=substitution,
                device=device,
                workers=workers,
                ranks=ranks,
                switches=switches,
            )
            with recorded(state, stop, ranks, device) as (progress, meter):
                _train(
                    run,
                    external,
                    checkpoints=checkpoints,
                    state=state,
                    stop=stop,
                    progress=progress,
                    meter=meter,
                    save_seconds=save_seconds,
                    sink=sink or Tracker(),
                )
        if ranks.leads:
            _check_final(final)
            checkpoints.clear()
            for name in OUTPUTS:
                with whole_file(out / name) as temporary:
                    shutil.copyfile(final / name, temporary)
            write_json(out / "cost.json", cost_of(state))
        return ranks.leads


@contextlib.contextmanager
def _owner(state: Path, ranks: Ranks, stop: Stop) -> Iterator[None]:
    """The first rank holds the folder of the run's state for all of them, and tidies it.

    All raise RetryLater when it is told to stop while another process holds it.
    """
    with contextlib.ExitStack() as held:
        left = None
        if ranks.leads:
            try:
                held.enter_context(sole_owner(state, given_up=lambda: stop.requested))
                for stale in state.rglob(".*.tmp"):  # half a file of an attempt that was killed
                    stale.unlink()
            except RetryLater as error:
                left = f"{error} ({stop.reason})"
        left = ranks.from_leader(left)
        if left is not None:
            raise RetryLater(left)
        yield


def identify(
    run: Pretrain | Finetune,
    manifests: Manifests,
    start: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
) -> dict[str, str | None]:
    """Hashes of everything that decides the result: what state must agree with to go on."""
    name = run.model.weights if start is None else None
    named = None if name is None else weights.get(name)
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
    external: External,
    checkpoints: Checkpoints,
    state: Path,
    stop: Stop,
    progress: TrainState,
    meter: Meter,
    save_seconds: float,
    sink: Tracker,
) -> None:
    """Set up, train and finish; `progress` and `meter` follow for the line of this attempt."""
    job = None
    with contextlib.suppress(Interrupted), stop.interrupting():
        job = set_up(run, external)
    if external.ranks.any(job is None)[0]:  # else the others would wait for this one in vain
        why = stop.reason or "another rank was told to"
        raise RetryLater(f"stopped before the first step ({why})")
    assert job is not None, "of no rank"
    for line in describe(run, job.batches) if external.ranks.leads else ():
        print(line, file=sys.stderr, flush=True)
    trainer = Trainer(
        job.task,
        job.batches,
        run.optimiser,
        checkpoints,
        state,
        external.device,
        validation=job.validation,
        seed=run.seed,
        choice=choice_of(run),
        save_seconds=save_seconds,
        ranks=external.ranks,
        state=progress,
        meter=meter,
        sink=sink,
    )
    trainer.run(stop)
    if external.ranks.leads:
        _finish(run, external, checkpoints, state, job, progress)


def _finish(
    run: Pretrain | Finetune,
    external: External,
    checkpoints: Checkpoints,
    state: Path,
    job: Job,
    reached: TrainState,
) -> None:
    """Write the outputs into the state's own folder; identity.json, the last, makes them count."""
    final, before = state / "final", start_metadata(external.start)
    selection = run.selection if isinstance(run, Finetune) else "last"
    selects = choice_of(run).selects
    selected = reached.best_epoch if selects else reached.epoch
    metadata: dict[str, Any] = {
        "run_key": run_key(run),
        "stage": run.stage,
        "task": run.task if isinstance(run, Finetune) else None,
        "selection": selection,
        "selected_epoch": selected,
    }
    dropped = [facts["leaks_dropped"] for facts in job.facts["train"] if "leaks_dropped" in facts]
    if dropped:
        metadata["leaks_dropped"] = sum(dropped)
    elif "leaks_dropped" in before:
        metadata["leaks_dropped"] = before["leaks_dropped"]
    metadata |= _labels(run, before) | small_batches(run, job.batches, before)
    metadata |= job.task.facts()
    if job.classes is not None:
        metadata["classes"] = job.classes
    model = job.task.model
    publish_curve(state / "metrics.jsonl", final / "metrics.jsonl")
    value = reached.best_value if selects else reached.last_value
    measured = {
        "manifests": external.caches.hashes(),
        "val_metric": job.validation.selects if value is not None else None,
        "val_value": value,
    }
    if selection == "best_test_as_paper":
        assert isinstance(run, Finetune) and run.test is not None, "checked by the config"
        measured["selected_on"] = f"{run.test.split}, the split that is also reported"
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
        "epoch_samples": job.batches.samples,
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
    write_json(final / FILES, {name: sha256_of_file(final / name) for name in OUTPUTS})
    write_json(final / "identity.json", checkpoints.identity)


def _check_final(final: Path) -> None:
    """Raise UserError where finished outputs have changed since the training wrote them.

    Trainings of older versions have no hashes and cannot be verified.
    """
    if not (final / FILES).is_file():
        return
    for name, sha256 in _facts_of(final / FILES).items():
        path = final / name
        if not path.is_file() or sha256_of_file(path) != sha256:
            raise UserError(
                f"{path}: missing, or changed since the training wrote it. Fix: restore a copy, or "
                f"remove {final.parent} to train anew"
            )


def _facts_of(path: Path) -> dict:
    """Read a JSON file of a finished training. UserError for a damaged one."""
    try:
        return dict(read_json(path))
    except (ValueError, TypeError):
        raise UserError(
            f"{path}: damaged. Fix: restore a copy, or remove {path.parent.parent} to train anew"
        ) from None


def _labels(run: Pretrain | Finetune, before: dict) -> dict:
    """What must be said wherever the numbers of a model stand, of this run and those before it."""
    labels: dict[str, Any] = {}
    half = list(before.get("half_weights", []))
    if run.optimiser.precision == "half_weights":
        half.append(run.stage)
    if half:
        labels["half_weights"] = half
    if run.optimiser.ema is not None:
        labels["ema"] = run.optimiser.ema
    return labels | run.model.labels(before)
