"""The outputs of a finished training: written into its state folder, verified and published."""

import shutil
from pathlib import Path
from typing import Any

import torch

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.checkpoints.initial_weights import initial_weights_metadata
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_file, whole_file, write_json
from clip4vla.config.keys import run_key
from clip4vla.config.run import Finetune, Pretrain
from clip4vla.config.settings import settings_of
from clip4vla.training.checkpoint import TrainState
from clip4vla.training.curve import publish_curve
from clip4vla.training.job import External, Job
from clip4vla.training.selection import selection_rule
from clip4vla.training.small_batches import small_batches

FILES = "files.json"  # in final/: sha256 of the outputs
IDENTITY = "identity.json"  # in final/, written last: with it the training is finished
OUTPUTS = ("model.safetensors", "metrics.jsonl", "train.json")


def write_outputs(
    final: Path,
    run: Pretrain | Finetune,
    external: External,
    job: Job,
    state: TrainState,
    curve: Path,
    identity: dict[str, str | None],
) -> None:
    """Write the outputs of a run that has reached its end into the folder `final`."""
    metadata = _metadata(run, job, state, initial_weights_metadata(external.initial_weights))
    validation = _validation(run, external, job, state)
    publish_curve(curve, final / "metrics.jsonl")
    settings = settings_of(run, job.classes)
    described = metadata | validation
    write_checkpoint(final / "model.safetensors", job.task.model, settings, described)
    write_json(final / "train.json", described | _summary(run, job, state, identity))
    write_json(final / FILES, {name: sha256_of_file(final / name) for name in OUTPUTS})
    write_json(final / IDENTITY, identity)


def is_finished(final: Path) -> bool:
    """Return whether a training has written all its outputs into `final`."""
    return (final / IDENTITY).exists()


def identity_of(final: Path) -> dict[str, str | None]:
    """Return the identity of a finished training. UserError for a damaged file."""
    return _read(final / IDENTITY)


def check_outputs(final: Path) -> None:
    """Raise UserError where finished outputs have changed since the training wrote them.

    Trainings of older versions have no hashes and cannot be verified.
    """
    if not (final / FILES).is_file():
        return
    for name, sha256 in _read(final / FILES).items():
        path = final / name
        if not path.is_file() or sha256_of_file(path) != sha256:
            raise UserError(
                f"{path}: missing, or changed since the training wrote it. Fix: restore a copy, or "
                f"remove {final.parent} to train anew"
            )


def publish(final: Path, out: Path) -> None:
    """Copy finished outputs to the folder `out`."""
    for name in OUTPUTS:
        with whole_file(out / name) as temporary:
            shutil.copyfile(final / name, temporary)


def _metadata(
    run: Pretrain | Finetune, job: Job, state: TrainState, initial: dict[str, Any]
) -> dict[str, Any]:
    """Return the description of the weights. initial: that of the weights before the run."""
    selects = selection_rule(run).selects
    metadata: dict[str, Any] = {
        "run_key": run_key(run),
        "stage": run.stage,
        "task": run.task if isinstance(run, Finetune) else None,
        "selection": run.selection if isinstance(run, Finetune) else "last",
        "selected_epoch": state.best_epoch if selects else state.epoch,
    }
    dropped = [facts["leaks_dropped"] for facts in job.facts["train"] if "leaks_dropped" in facts]
    if dropped:
        metadata["leaks_dropped"] = sum(dropped)
    elif "leaks_dropped" in initial:
        metadata["leaks_dropped"] = initial["leaks_dropped"]
    if isinstance(run, Finetune) and run.trainable == "all":
        metadata["trainable"] = run.trainable
    metadata |= _labels(run, initial) | small_batches(run, job.batches, initial)
    metadata |= job.task.facts()
    if job.classes is not None:
        metadata["classes"] = job.classes
    return metadata


def _labels(run: Pretrain | Finetune, initial: dict[str, Any]) -> dict[str, Any]:
    """Return labels that every number of the model carries, earlier stages' labels included."""
    labels: dict[str, Any] = {}
    fp16_stages = list(initial.get("half_weights", []))
    if run.optimiser.precision == "half_weights":
        fp16_stages.append(run.stage)
    if fp16_stages:
        labels["half_weights"] = fp16_stages
    if run.optimiser.ema is not None:
        labels["ema"] = run.optimiser.ema
    if run.optimiser.average_epochs is not None:
        labels["average_epochs"] = list(run.optimiser.average_epochs)
    return labels | run.model.labels(initial)


def _validation(
    run: Pretrain | Finetune, external: External, job: Job, state: TrainState
) -> dict[str, Any]:
    """Return the datasets' hashes and the validation metric of the selected epoch."""
    value = state.best_value if selection_rule(run).selects else state.last_value
    validation: dict[str, Any] = {
        "manifests": external.caches.hashes(),
        "val_metric": job.validation.selection_metric if value is not None else None,
        "val_value": value,
    }
    if isinstance(run, Finetune) and run.selection == "best_test_as_paper":
        assert run.test is not None, "checked by the config"
        validation["selected_on"] = f"{run.test.split}, the split that is also reported"
    return validation


def _summary(
    run: Pretrain | Finetune, job: Job, state: TrainState, identity: dict[str, str | None]
) -> dict[str, Any]:
    """Return counts and inputs of the training, which train.json has beside the metadata."""
    parameters = job.task.model.parameters()
    return {
        "config_sha256": identity["config"],
        "train_clips": sum(facts["clips"] for facts in job.facts["train"]),
        "val_clips": job.facts["val"]["clips"] if job.facts["val"] else 0,
        "silent_left_out": sum(facts["silent_left_out"] for facts in job.facts["train"]),
        "data": job.facts,
        "steps": state.step,
        "samples": state.samples,
        "epochs": state.epoch,
        "batch_size": job.batches.size,
        "epoch_samples": job.batches.samples,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "torch": torch.__version__,
        "parent": {
            "run_key": getattr(run, "start", None),
            "sha256": identity["start weights"],
        },
        "substitution": {
            "run_key": getattr(run, "substitution", None),
            "sha256": identity["substitution"],
        },
    }


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a finished training. UserError for a damaged one."""
    try:
        return dict(read_json(path))
    except (ValueError, TypeError):
        raise UserError(
            f"{path}: damaged. Fix: restore a copy, or remove {path.parent.parent} to train anew"
        ) from None
