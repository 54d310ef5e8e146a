"""Train one run: set up, train, publish. An interrupted run resumes from its last checkpoint.

runs/<run_key>/state/        checkpoints, while training
runs/<run_key>/metrics.jsonl the curve with times of day and speeds, for trackers
runs/<run_key>/attempts.jsonl one line per attempt: its steps, time, hardware and end
runs/<run_key>/final/        the finished outputs, from which `out` is (re)published
out/                         model.safetensors, metrics.jsonl, train.json; cost.json, which alone
                             differs between equal runs and is no declared output
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from clip4vla.checkpoints.initial_weights import initial_weights_hash
from clip4vla.common.device import take
from clip4vla.common.errors import RetryLater
from clip4vla.common.files import (
    canonical_json,
    sha256_of,
    sha256_of_file,
    sha256_of_files,
    sole_owner,
    write_json,
)
from clip4vla.common.hardware import INLINE, ReadingHardware
from clip4vla.config.run import Finetune, Pretrain, sources_of
from clip4vla.datasets.leaks import Leaks
from clip4vla.loading.loader import Caches, Manifests
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.attempts import cost_of, recorded
from clip4vla.training.checkpoint import Checkpoints
from clip4vla.training.job import External, Job
from clip4vla.training.loop import SAVE_SECONDS, Trainer
from clip4vla.training.outputs import (
    check_outputs,
    identity_of,
    is_finished,
    publish,
    write_outputs,
)
from clip4vla.training.ranks import Ranks, joined
from clip4vla.training.selection import selection_rule
from clip4vla.training.setup import set_up
from clip4vla.training.small_batches import log_batches
from clip4vla.training.stop import Interrupted, Stop
from clip4vla.training.switches import Switches


def train(
    run: Pretrain | Finetune,
    manifests: Manifests,
    initial_weights: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
    state: Path,
    out: Path,
    hardware: ReadingHardware = INLINE,
    max_seconds: float | None = None,
    save_seconds: float = SAVE_SECONDS,
    leaks: Leaks | None = None,
    switches: Switches = Switches(),
    tracker: Tracker | None = None,
) -> bool:
    """Train to the end, or until a time limit or signal, and write the outputs into `out`.

    Returns whether this is the rank that wrote them.

    A finished run of the same identity (config, manifests, initial weights, substitution) is only
    published again. Raises RetryLater, after saving, when stopped; UserError when the state is of
    another run, the data are unusable or the loss is not finite.

    state: the folder runs/<run_key>. hardware: the device and cores to use. save_seconds: the
    longest training time that a kill can lose; the end of an epoch is saved too. leaks: clips that
    pre-training leaves out. tracker: gets the length of the curve at each checkpoint.
    """
    stop = Stop(max_seconds)
    device, workers = take(hardware)
    with joined(device) as ranks, stop, _sole_owner(state, ranks, stop):
        identity = identify(run, manifests, initial_weights, weights, substitution)
        if leaks:
            identity["leaks"] = sha256_of(canonical_json(leaks.facts))
        checkpoints = Checkpoints(state / "state", identity)
        final = state / "final"
        if ranks.from_leader(is_finished(final)):
            checkpoints.check(identity_of(final), final)
        else:
            external = External(
                caches=Caches(manifests, leaks, switches.check_every),
                initial_weights=initial_weights,
                weights=weights,
                substitution=substitution,
                device=device,
                workers=workers,
                ranks=ranks,
                switches=switches,
            )
            with recorded(state, stop, ranks, device) as (progress, meter):
                job = _set_up(run, external, stop)
                trainer = Trainer(
                    task=job.task,
                    batches=job.batches,
                    config=run.optimiser,
                    checkpoints=checkpoints,
                    folder=state,
                    device=device,
                    validation=job.validation,
                    seed=run.seed,
                    selection=selection_rule(run),
                    save_seconds=save_seconds,
                    ranks=ranks,
                    state=progress,
                    meter=meter,
                    tracker=tracker or Tracker(),
                )
                trainer.run(stop)
                if ranks.leads:
                    curve = state / "metrics.jsonl"
                    write_outputs(final, run, external, job, progress, curve, identity)
        if ranks.leads:
            check_outputs(final)
            checkpoints.clear()
            publish(final, out)
            write_json(out / "cost.json", cost_of(state))
        return ranks.leads


@contextlib.contextmanager
def _sole_owner(state: Path, ranks: Ranks, stop: Stop) -> Iterator[None]:
    """Let the first rank hold the folder of the run's state for all ranks, and tidy it.

    Every rank raises RetryLater if a stop is requested while another process holds the folder.
    """
    with contextlib.ExitStack() as held:
        problem = None
        if ranks.leads:
            try:
                held.enter_context(sole_owner(state, given_up=lambda: stop.requested))
                for stale in state.rglob(".*.tmp"):  # partial files of an attempt that was killed
                    stale.unlink()
            except RetryLater as error:
                problem = f"{error} ({stop.reason})"
        problem = ranks.from_leader(problem)
        if problem is not None:
            raise RetryLater(problem)
        yield


def identify(
    run: Pretrain | Finetune,
    manifests: Manifests,
    initial_weights: Path | None,
    weights: dict[str, Path],
    substitution: Path | None,
) -> dict[str, str | None]:
    """Return the hashes of all inputs of a result. A run resumes only state of equal hashes."""
    first = [weights[name] for name in run.model.first_weights if name in weights]
    started = initial_weights_hash(initial_weights)
    if initial_weights is None and first:
        started = sha256_of_files(first)
    data = {
        f"{source.dataset}/cache-{source.cache_id}": sha256_of_file(
            manifests[source.dataset, source.cache_id]
        )
        for source in sources_of(run)
    }
    return {
        "config": sha256_of(canonical_json(run.scientific())),
        "data manifest": sha256_of(canonical_json(data)),
        "start weights": started,
        "substitution": None if substitution is None else sha256_of_file(substitution),
    }


def _set_up(run: Pretrain | Finetune, external: External, stop: Stop) -> Job:
    """Set a run up. Raises RetryLater, on all ranks, if one of them is asked to stop meanwhile."""
    job = None
    with contextlib.suppress(Interrupted), stop.interrupting():
        job = set_up(run, external)
    if external.ranks.any_rank(job is None):  # otherwise the others would wait for this one forever
        reason = stop.reason or "another rank was asked to stop"
        raise RetryLater(
            f"stopped before the first step ({reason}). Fix: run the same command again"
        )
    assert job is not None, "no rank was stopped"
    if external.ranks.leads:
        log_batches(run, job.batches)
    return job
