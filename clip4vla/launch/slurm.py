"""Run a training as one Slurm job over one or more nodes: submit it and wait for its end.

This driver runs as a local rule on the login node and can be killed at any time: the job runs on,
is requeued after time limits, pre-emption and node crashes, and the same command finds it again.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import submitit
from submitit.helpers import clean_env

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of, sole_owner
from clip4vla.common.log import log
from clip4vla.launch.queue import State, living_job, state_of
from clip4vla.launch.rank import REFUSED, Rank
from clip4vla.launch.request import ANY, Request

T = TypeVar("T")
POLL_SECONDS = (2.0, 30.0)  # soon after a change, and later
UNKNOWN_SECONDS = 120.0  # until a job that Slurm does not know counts as lost
MAX_STALLED = 3  # jobs in a row that may end without a step of progress
STEP_SECONDS = 900  # until the tasks of a running job must have started
LOG_LINES = 15
UNRUNNABLE = {"PartitionConfig", "BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit"}
RESERVED = (  # options that `_submit` or submitit sets, and `array`, which makes several jobs
    "account array constraint cpus-per-task error gpus-per-node gres job-name mem nodes "
    "ntasks-per-node open-mode output parsable partition qos signal time wckey"
)
CHOICES = ("account", "constraint", "partition", "qos")
PAUSE_SECONDS = (60.0, 300.0)  # after the first, the second stalled job in a row


def run_on_slurm(
    name: str, arguments: list[str], request: Request, state: Path, variables: dict[str, str]
) -> None:
    """Submit `clip4vla ARGUMENTS` unless such a job exists; return when it has completed.

    name: of the training, unique in the working directory; state: the run's folder, whose
    checkpoints show progress and which gets the job's logs. A job that does not complete is
    submitted again. Raises UserError with the end of its log when it was cancelled or refused, or
    when MAX_STALLED jobs in a row made no progress.
    """
    folder = state / "slurm"
    name = f"clip4vla-{name}-{sha256_of(str(Path.cwd()))[:6]}"
    with sole_owner(folder):
        stalled, reached = 0, _progress(state)
        job_id = living_job(name)
        if job_id is not None:
            _log(f"job {job_id} still exists: waiting for it")
        while job_id is not None or not is_finished(state):
            job_id = job_id or _submit(name, arguments, request, folder, variables)
            end = _wait(job_id)
            if end.name == "COMPLETED" or is_finished(state):
                return
            if _answer(living_job, name) == job_id:
                continue  # Slurm did not know it for a while
            now = _progress(state)
            stalled, reached = (0, now) if now > reached else (stalled + 1, reached)
            refused = (folder / job_id / REFUSED).exists()  # submitting again cannot help
            hopeless = end.name == "CANCELLED" or refused
            if hopeless or stalled >= MAX_STALLED:
                raise UserError(*_report(job_id, end, folder, stalled))
            _log(f"job {job_id} ended as {end.name} at step {now}: submitting the next one")
            if stalled:
                # Slurm may take minutes to notice that a node is lost, and use it until then.
                pause = PAUSE_SECONDS[min(stalled, len(PAUSE_SECONDS)) - 1]
                _log(f"it made no progress: waiting {pause:.0f} s before the next one")
                time.sleep(pause)
            job_id = _answer(living_job, name)


def _answer(ask: Callable[[str], T], about: str) -> T:
    """Return Slurm's answer, waiting while its controller is down: jobs run on without it."""
    warned = False
    while True:
        try:
            return ask(about)
        except UserError as error:
            if not warned:
                _log(f"no answer, asking again: {str(error).partition('. Fix: ')[0]}")
                warned = True
            time.sleep(POLL_SECONDS[1])


def _submit(
    name: str, arguments: list[str], request: Request, folder: Path, variables: dict[str, str]
) -> str:
    """Submit the job to Slurm through submitit; return its id."""
    executor = submitit.SlurmExecutor(folder / "%j", python=shlex.quote(sys.executable))
    optional = {
        **{name: getattr(request, name) for name in CHOICES},
        "mem": f"{request.mem_mb}M" if request.mem_mb else ANY,
        **_gpus(request),
    }
    executor.update_parameters(
        job_name=name,
        nodes=request.nodes,
        ntasks_per_node=request.tasks_per_node,
        cpus_per_task=request.threads,
        time=request.minutes,
        signal_delay_s=request.grace_seconds,
        # A lost rank ends the others, which wait for it. A job that Slurm restarts too soon after
        # a node crash can find its nodes busy with its former self for ever: then it ends.
        # Slurm 22.05 to 23.02 binds a rank to one core unless srun itself asks for more.
        srun_args=[
            "--kill-on-bad-exit=1",
            f"--immediate={STEP_SECONDS}",
            f"--cpus-per-task={request.threads}",
        ],
        additional_parameters={"requeue": True, **_extra(request.extra)},
        **{key: value for key, value in optional.items() if value != ANY},
    )
    inherited = _inherited(request)
    with clean_env():  # variables of a surrounding job must not leak into the new one
        os.environ.update(inherited)
        try:
            job = executor.submit(Rank(arguments, variables))
        except submitit.core.utils.FailedJobError as error:
            raise UserError(
                f"sbatch refused: {' '.join(str(error).split())}. Fix: correct partition, account "
                "and GPUs in the profile (`clip4vla setup slurm --help`)"
            ) from None
    _log(f"job {job.job_id}: {request.nodes} node(s), logs in {folder}/{job.job_id}")
    return job.job_id


def _inherited(request: Request) -> dict[str, str]:
    """Return Slurm's variables that a submission needs.

    Outside of jobs, these include the user's own SBATCH_ variables for choices that the request
    leaves open; sbatch prefers them to the options in the script, so others are left out.
    """
    names = ["SLURM_CONF"]
    if "SLURM_JOB_ID" not in os.environ:
        open_choices = [name for name in CHOICES if getattr(request, name) == ANY]
        names += [f"SBATCH_{name.upper()}" for name in (*open_choices, "reservation")]
    return {name: os.environ[name] for name in names if name in os.environ}


def _extra(options: str) -> dict[str, str | bool]:
    """Return sbatch options as submitit takes them; UserError for reserved ones."""
    parsed: dict[str, str | bool] = {}
    for word in shlex.split(options):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")  # as submitit does
        # sbatch accepts --part for --partition
        reserved = any(option.startswith(name) for option in RESERVED.split())
        if not word.startswith("--") or reserved:
            raise UserError(
                f"slurm_extra {word!r}: invalid or reserved option. Fix: use --NAME or "
                "--NAME=VALUE, and for reserved options the other resources of the rule"
            )
        parsed[name] = value if equals else True
    return parsed


def _gpus(request: Request) -> dict[str, str | int]:
    if request.gpus_per_node == 0:
        return {}
    if request.gpu_model == ANY:
        return {"gpus_per_node": request.gpus_per_node}
    return {"gres": f"gpu:{request.gpu_model}:{request.gpus_per_node}"}


def _wait(job_id: str) -> State:
    """Wait until the job is over twice in a row: a requeued one may look finished for a moment."""
    shown, last, pause, since = None, None, POLL_SECONDS[0], time.monotonic()
    while True:
        asked = time.monotonic()
        state = _answer(state_of, job_id)
        since += time.monotonic() - asked  # time without answers does not count
        if state is None and time.monotonic() - since > UNKNOWN_SECONDS:
            return State("UNKNOWN to Slurm")
        if state is not None:
            since = time.monotonic()
            if state.over and last is not None and last.over:
                return state
            if (state.name, state.detail) != shown:
                _log(f"job {job_id}: {state.name} {state.detail}".rstrip())
                if state.detail.strip("()") in UNRUNNABLE:
                    _log(f"no node can run it. Fix: request less, then `scancel {job_id}`")
                shown, pause = (state.name, state.detail), POLL_SECONDS[0]
        last = state
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS[1])


def is_finished(state: Path) -> bool:
    """Return whether the training of a run has finished; its outputs may not be published yet."""
    return (state / "final" / "identity.json").exists()


def _progress(state: Path) -> int:
    """Return the last step that a checkpoint of the run holds."""
    steps = [int(path.stem[5:]) for path in (state / "state").glob("step-*.pt")]
    return max(steps, default=0)


def _report(job_id: str, end: State, folder: Path, stalled: int) -> list[str]:
    note = folder / job_id / REFUSED
    rank = note.read_text() if note.exists() else "*"
    logs = sorted((folder / job_id).glob(f"{job_id}_{rank}_log.err"))
    lines = [f"job {job_id} ended as {end.name} (exit code {end.exit_code})"]
    if note.exists():
        lines[0] += ": the training refused to run"
    if stalled >= MAX_STALLED:
        lines[0] += f"; {stalled} jobs in a row made no progress"
    if logs:
        tail = logs[0].read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        lines += [f"the end of {logs[0]}:", *(f"  {line}" for line in tail)]
    return lines


def _log(message: str) -> None:
    log.info(f"{time.strftime('%F %T')} slurm: {message}")
