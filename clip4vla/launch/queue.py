"""Ask Slurm for the state of a job: squeue while it waits or runs, then sacct."""

import contextlib
import os
import re
import subprocess
import time
from dataclasses import dataclass

from clip4vla.common.errors import UserError

# A job in one of these states is over; in any other (PENDING, REQUEUED, a new one) it is alive.
FINAL = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
JOB_ID = re.compile(r"\d+")
QUEUED = re.compile(r"[A-Z_]+\|.*")  # state and reason, or nodes
ACCOUNTED = re.compile(r"[A-Z_]+( by \d+)?\+?\|\d+:\d+")
SECONDS = 60  # a busy controller answers late
TRIES, PAUSE_SECONDS = 3, 5.0  # to requeue a job, within its last minutes


@dataclass(frozen=True)
class State:
    """Slurm's name of a state, the exit code of the script, and the reason or the nodes."""

    name: str
    exit_code: int = 0
    detail: str = ""

    @property
    def over(self) -> bool:
        """Whether the job will not run (again)."""
        return self.name in FINAL


def living_job(name: str) -> str | None:
    """Return the id of this user's job of that name that waits or runs; None without one."""
    answer = _ask("squeue", "--noheader", "--me", "--name", name, "--format", "%i")
    return min(_rows(answer, JOB_ID, "squeue"), key=int, default=None)


def state_of(job_id: str) -> State | None:
    """Return the state of a job; None if Slurm does not know it (sacct is up to two seconds late).

    Raises UserError when squeue fails or prints anything but jobs: then the controller is busy, and
    the job may still exist. squeue comes first, because after a node crash sacct reports NODE_FAIL
    for a job that Slurm has requeued. Without accounting, scontrol knows a job for some minutes
    after its end.
    """
    try:
        queued = _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%T|%R").strip()
    except UserError as error:
        if "Invalid job id" not in str(error):
            raise
        queued = ""
    for row in _rows(queued, QUEUED, "squeue"):
        name, _, detail = row.partition("|")
        if name not in FINAL:
            return State(name, detail=detail)
    form = "--format=State,ExitCode"
    account = _ask("sacct", "-X", "--noheader", "--parsable2", "-j", job_id, form, missing="")
    # Without accounting sacct may print a message and exit with 0: then it has no job.
    if rows := [line for line in account.splitlines() if ACCOUNTED.fullmatch(line)]:
        name, code = rows[0].split("|")
        return State(name.split()[0], int(code.split(":")[0]))  # "CANCELLED by 1000"
    answer = _ask("scontrol", "--oneliner", "show", "job", job_id, missing="")
    facts = dict(item.partition("=")[::2] for item in answer.split())
    if "JobState" not in facts:
        return None
    code = facts.get("ExitCode", "").partition(":")[0]
    return State(facts["JobState"], int(code) if code.isdigit() else 0)


def requeue(job_id: str) -> bool:
    """Requeue a running job under the same id; return whether Slurm did."""
    for attempt in range(TRIES):
        time.sleep(PAUSE_SECONDS if attempt else 0)
        with contextlib.suppress(UserError):
            _ask("scontrol", "requeue", job_id)
            return True
    return False


def seconds_left() -> float | None:
    """Return the time until Slurm ends this process's job; None without a job or a limit."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        return None
    left = _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%L", missing="").strip()
    days, _, clock = left.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
    except ValueError:  # UNLIMITED, INVALID, or no answer
        return None
    seconds = sum(part * unit for part, unit in zip(reversed(parts), (1, 60, 3600), strict=False))
    return float(seconds + 86400 * int(days or 0))


def _rows(answer: str, form: re.Pattern[str], command: str) -> list[str]:
    """Return the lines of an answer. UserError for other text, such as a message of the site.

    No line is skipped, because a job that is overlooked would be submitted twice.
    """
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if odd := [line for line in lines if not form.fullmatch(line)]:
        raise UserError(
            f"{command}: printed '{ascii(odd[0])[1:-1][:100]}' in place of jobs. Fix: run it "
            "here, and keep messages of the site out of its output"
        )
    return lines


def _ask(*command: str, missing: str | None = None) -> str:
    """Return the output of a Slurm command.

    missing: returned if the command fails or is not installed; None: then raise UserError.
    """
    # SQUEUE_STATES and similar variables would hide jobs
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=True, env=env
        )
        return answer.stdout
    except (OSError, subprocess.SubprocessError) as error:
        if missing is not None:
            return missing
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UserError(
            f"{command[0]}: {why[-1] if why else 'failed'}. Fix: run this on a machine of the "
            "cluster, or choose --launcher local"
        ) from None
