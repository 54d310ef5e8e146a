"""A training as one Slurm job over one or more nodes, from submission to its end.

Runs as a local rule on the login node. It may die at any moment: the job lives on, comes back by
itself after time limits, pre-emption and crashed nodes, and the same command attaches to it again.
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
POLL_SECONDS = (2.0, 30.0)  # shortly after a change, and in the long run
UNKNOWN_SECONDS = 120.0  # until a job that Slurm, which answers, does not know counts as lost
FRUITLESS = 3  # jobs in a row that may end without a step of progress
STEP_SECONDS = 900  # until the tasks of a job that runs must have begun
LOG_LINES = 15
NEVER = {"PartitionConfig", "BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit"}
OURS = (  # options that `_submit` or submitit sets, and one that makes several jobs of one
    "account array constraint cpus-per-task error gpus-per-node gres job-name mem nodes "
    "ntasks-per-node open-mode output parsable partition qos signal time wckey"
)
CHOICES = ("account", "constraint", "partition", "qos")
PAUSE_SECONDS = (60.0, 300.0)  # after the first, the second fruitless job in a row


def run_on_slurm(
    name: str, arguments: list[str], request: Request, state: Path, variables: dict[str, str]
) -> None:
    """Submit `clip4vla ARGUMENTS` unless such a job lives; return when it has completed.

    name: of the training, unique below the working directory; state: the run's folder, whose
    checkpoints tell progress and where the job's logs go. A job that ends otherwise is submitted
    again while each one makes progress. Raises UserError with the end of its log when it is given
    up: cancelled, refused, or no progress in three jobs.
    """
    folder = state / "slurm"
    name = f"clip4vla-{name}-{sha256_of(str(Path.cwd()))[:6]}"
    with sole_owner(folder):
        fruitless, reached = 0, _progress(state)
        job_id = living_job(name)
        if job_id is not None:
            _say(f"job {job_id} is still there: waiting for it")
        while job_id is not None or not is_finished(state):
            job_id = job_id or _submit(name, arguments, request, folder, variables)
            end = _wait(job_id)
            if end.name == "COMPLETED" or is_finished(state):
                return
            if _answer(living_job, name) == job_id:
                continue  # Slurm had forgotten it for a while
            now = _progress(state)
            fruitless, reached = (0, now) if now > reached else (fruitless + 1, reached)
            refused = (folder / job_id / REFUSED).exists()  # submitting again cannot help
            hopeless = end.name == "CANCELLED" or refused
            if hopeless or fruitless >= FRUITLESS:
                raise UserError(_report(job_id, end, folder, fruitless))
            _say(f"job {job_id} ended as {end.name} at step {now}: going on")
            if fruitless:
                # Slurm may need minutes to notice that a node is lost, and give it out till then.
                pause = PAUSE_SECONDS[min(fruitless, len(PAUSE_SECONDS)) - 1]
                _say(f"it made no progress: the next one in {pause:.0f} s")
                time.sleep(pause)
            job_id = _answer(living_job, name)


def _answer(ask: Callable[[str], T], about: str) -> T:
    """What Slurm says, however long its controller is away: jobs run on without it."""
    told = False
    while True:
        try:
            return ask(about)
        except UserError as error:
            if not told:
                _say(f"no answer, asking on: {str(error).partition(';')[0]}")
                told = True
            time.sleep(POLL_SECONDS[1])


def _submit(
    name: str, arguments: list[str], request: Request, folder: Path, variables: dict[str, str]
) -> str:
    """Hand the job to Slurm through submitit; its id."""
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
        # a crash of a node can find its nodes busy with its former self, for good: it then ends.
        # Slurm 22.05 to 23.02 binds a rank to one core unless srun itself asks for more.
        srun_args=[
            "--kill-on-bad-exit=1",
            f"--immediate={STEP_SECONDS}",
            f"--cpus-per-task={request.threads}",
        ],
        additional_parameters={"requeue": True, **_extra(request.extra)},
        **{key: value for key, value in optional.items() if value != ANY},
    )
    kept = _kept(request)
    with clean_env():  # nothing of a job this runs in may leak into the new one
        os.environ.update(kept)
        try:
            job = executor.submit(Rank(arguments, variables))
        except submitit.core.utils.FailedJobError as error:
            raise UserError(
                f"sbatch refused: {' '.join(str(error).split())}; partition, account and GPUs are "
                "in the profile: `clip4vla setup slurm --help`"
            ) from None
    _say(f"job {job.job_id}: {request.nodes} node(s), logs in {folder}/{job.job_id}")
    return job.job_id


def _kept(request: Request) -> dict[str, str]:
    """Slurm's variables that a submission needs.

    Outside of jobs, what the user exports for all of theirs is among them where the request leaves
    a choice: sbatch would take it over what the script says.
    """
    names = ["SLURM_CONF"]
    if "SLURM_JOB_ID" not in os.environ:
        left = [name for name in CHOICES if getattr(request, name) == ANY]
        names += [f"SBATCH_{name.upper()}" for name in (*left, "reservation")]
    return {name: os.environ[name] for name in names if name in os.environ}


def _extra(options: str) -> dict[str, str | bool]:
    """sbatch options as submitit takes them; UserError for what has a resource of its own."""
    given: dict[str, str | bool] = {}
    for word in shlex.split(options):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")  # as submitit does
        # sbatch takes --part for --partition
        if not word.startswith("--") or any(ours.startswith(name) for ours in OURS.split()):
            raise UserError(
                f"slurm_extra {word!r}: only --NAME or --NAME=VALUE, and nothing that another "
                "resource of the rule says"
            )
        given[name] = value if equals else True
    return given


def _gpus(request: Request) -> dict[str, str | int]:
    if request.gpus_per_node == 0:
        return {}
    if request.gpu_model == ANY:
        return {"gpus_per_node": request.gpus_per_node}
    return {"gres": f"gpu:{request.gpu_model}:{request.gpus_per_node}"}


def _wait(job_id: str) -> State:
    """Wait until the job is over, twice in a row: a requeued one may look finished for a moment."""
    shown, last, pause, since = None, None, POLL_SECONDS[0], time.monotonic()
    while True:
        asked = time.monotonic()
        state = _answer(state_of, job_id)
        since += time.monotonic() - asked  # a time without answers says nothing of the job
        if state is None and time.monotonic() - since > UNKNOWN_SECONDS:
            return State("UNKNOWN to Slurm")
        if state is not None:
            since = time.monotonic()
            if state.over and last is not None and last.over:
                return state
            if (state.name, state.detail) != shown:
                _say(f"job {job_id}: {state.name} {state.detail}".rstrip())
                if state.detail.strip("()") in NEVER:
                    _say(f"no node can run it as it is: ask for less, then `scancel {job_id}`")
                shown, pause = (state.name, state.detail), POLL_SECONDS[0]
        last = state
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS[1])


def is_finished(state: Path) -> bool:
    """Whether the training of a run has ended: all that may be missing is its published copy."""
    return (state / "final" / "identity.json").exists()


def _progress(state: Path) -> int:
    """Steps that are safe in a checkpoint of the run."""
    steps = [int(path.stem[5:]) for path in (state / "state").glob("step-*.pt")]
    return max(steps, default=0)


def _report(job_id: str, end: State, folder: Path, fruitless: int) -> str:
    note = folder / job_id / REFUSED
    rank = note.read_text() if note.exists() else "*"
    logs = sorted((folder / job_id).glob(f"{job_id}_{rank}_log.err"))
    lines = [f"job {job_id} ended as {end.name} (exit code {end.exit_code})"]
    if note.exists():
        lines[0] += ": the training was refused"
    if fruitless >= FRUITLESS:
        lines[0] += f"; {fruitless} jobs in a row made no progress"
    if logs:
        tail = logs[0].read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        lines += [f"the end of {logs[0]}:", *(f"  {line}" for line in tail)]
    return "\n".join(lines)


def _say(message: str) -> None:
    log.info(f"{time.strftime('%F %T')} slurm: {message}")
