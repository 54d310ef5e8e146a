"""Provenance of a stage: host, user, job, commit and usage. No result depends on it."""

import functools
import getpass
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

GIT_SECONDS = 10
MIB = 1024**2


def provenance() -> dict[str, Any]:
    """Return host, user, slurm_job_id (of a job), git_sha and git_dirty (of a checkout)."""
    facts = {"host": os.uname().nodename, "user": _user()}
    if "SLURM_JOB_ID" in os.environ:
        facts["slurm_job_id"] = os.environ["SLURM_JOB_ID"]
    return facts | dict(_git())


def usage() -> dict[str, float]:
    """Return CPU seconds and peak memory (MiB) of this process, and of its GPU if it used one."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(item.ru_utime + item.ru_stime for item in (own, children))
    facts = {"cpu_seconds": round(used, 1), "peak_memory_mib": round(own.ru_maxrss / 1024)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        facts["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / MIB)
    return facts


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return str(os.getuid())


@functools.cache
def _git() -> tuple[tuple[str, Any], ...]:
    """Return commit and state of the checkout that this code runs from; () if installed."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        # Do not lock the index: the user may be committing at this moment.
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
        )
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # only if tracked
        changed = git("status", "--porcelain", "--untracked-files=no")
        return ("git_sha", git("rev-parse", "HEAD")), ("git_dirty", bool(changed))
    except (OSError, subprocess.SubprocessError):
        return ()
