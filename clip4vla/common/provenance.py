"""Where a stage ran, on which code, and what it used: facts that no result may depend on."""

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


def surroundings() -> dict[str, Any]:
    """host, user, slurm_job_id (where Slurm started it), git_sha and git_dirty (in a checkout)."""
    found = {"host": os.uname().nodename, "user": _user()}
    if "SLURM_JOB_ID" in os.environ:
        found["slurm_job_id"] = os.environ["SLURM_JOB_ID"]
    return found | dict(_git())


def usage() -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of this process, and of its GPU where it used one."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(item.ru_utime + item.ru_stime for item in (own, children))
    found = {"cpu_seconds": round(used, 1), "peak_memory_mib": round(own.ru_maxrss / 1024)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / MIB)
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in containers
        return str(os.getuid())


@functools.cache
def _git() -> tuple[tuple[str, Any], ...]:
    """Commit of the checkout that this code runs from; nothing for an installed package."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        # Without the lock of the index, which a commit of the user's may want at this moment.
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
        )
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not merely below some repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return ("git_sha", git("rev-parse", "HEAD")), ("git_dirty", bool(changed))
    except (OSError, subprocess.SubprocessError):
        return ()
