"""GPUs of this machine that nobody uses, for trainings that no scheduler gives theirs to.

CUDA_VISIBLE_DEVICES, where it is set, is somebody's decision (Slurm's, a user's) and is kept. Else
a GPU is free when no process computes on it and no other training of this user has locked it. The
lock tells of trainings that have not touched their GPU yet, and dies with the process.
"""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.log import log

VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[int] = []  # open lock files, for the life of this process


def claim(count: int) -> None:
    """Keep `count` GPUs for this process and its children, by CUDA_VISIBLE_DEVICES.

    Raises UserError where there are not so many, or not so many free.
    """
    if VISIBLE in os.environ:
        chosen = [name for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
        _enough(count, len(chosen), f"{VISIBLE}={os.environ[VISIBLE]} shows")
        os.environ[VISIBLE] = ",".join(chosen[:count])
        return
    gpus = _gpus()
    _enough(count, len(gpus), "this machine has")
    taken: dict[str, int] = {}
    for name, busy in gpus.items():
        if not busy and len(taken) < count and (lock := _lock(name)) is not None:
            taken[name] = lock
    if len(taken) < count:
        for lock in taken.values():
            os.close(lock)
        raise UserError(
            f"{count} GPU(s) asked for, {len(taken)} of {len(gpus)} free here (`nvidia-smi`); "
            f"wait, ask for fewer, or name those to use whatever runs on them: {VISIBLE}=0,1"
        )
    _held.extend(taken.values())
    os.environ[VISIBLE] = ",".join(taken)


def claim_one_or_share() -> None:
    """Keep a free GPU where the choice is ours; say so where all are busy, and share the first."""
    given = {VISIBLE, "LOCAL_RANK", "SLURM_JOB_ID"} & set(os.environ)
    if given or not _gpus():
        return
    try:
        claim(1)
    except UserError as error:
        log.warning(f"sharing a GPU: {error}")


def _enough(asked: int, there: int, where: str) -> None:
    if asked > there:
        raise UserError(
            f"{asked} GPU(s) asked for, and {where} {there}: lower --gpus-per-node "
            "(`gpus_per_node` in the profile); 0 is one process on the CPU"
        )


def _gpus() -> dict[str, bool]:
    """Every GPU, and whether somebody computes on it.

    By UUID: nvidia-smi and CUDA count in different orders. By number where nvidia-smi is missing.
    """
    names = _ask("--query-gpu=uuid")
    if names is None:
        import torch

        return {str(number): False for number in range(torch.cuda.device_count())}
    busy = set(_ask("--query-compute-apps=gpu_uuid") or [])
    return {name: name in busy for name in names}


def _ask(query: str) -> list[str] | None:
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.split()


def _lock(name: str) -> int | None:
    """The open lock file of a GPU; None where another process holds it."""
    folder = Path(tempfile.gettempdir(), f"clip4vla-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
