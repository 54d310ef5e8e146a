"""Claim free GPUs of this machine, for trainings that run without a scheduler.

If CUDA_VISIBLE_DEVICES is set (by Slurm or the user), it is respected. Otherwise a GPU is free when
no process computes on it and no other training of this user has locked it. The lock covers
trainings that have not touched their GPU yet, and ends with the process.
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
    """Reserve `count` GPUs for this process and its children, through CUDA_VISIBLE_DEVICES.

    Raises UserError if the machine has fewer, or fewer are free.
    """
    if VISIBLE in os.environ:
        chosen = [name for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
        _check_count(count, len(chosen), f"{VISIBLE}={os.environ[VISIBLE]} shows")
        os.environ[VISIBLE] = ",".join(chosen[:count])
        return
    gpus = _gpus()
    _check_count(count, len(gpus), "this machine has")
    taken: dict[str, int] = {}
    for name, busy in gpus.items():
        if not busy and len(taken) < count and (lock := _lock(name)) is not None:
            taken[name] = lock
    if len(taken) < count:
        for lock in taken.values():
            os.close(lock)
        raise UserError(
            f"{count} GPU(s) requested, {len(taken)} of {len(gpus)} free here (`nvidia-smi`). Fix: "
            f"wait, request fewer, or share busy ones by their numbers: {VISIBLE}=0,1"
        )
    _held.extend(taken.values())
    os.environ[VISIBLE] = ",".join(taken)


def claim_one_or_share() -> None:
    """Reserve a free GPU unless a scheduler or the user chose one; if all are busy, warn."""
    assigned = {VISIBLE, "LOCAL_RANK", "SLURM_JOB_ID"} & set(os.environ)
    if assigned or not _gpus():
        return
    try:
        claim(1)
    except UserError as error:
        log.warning(f"sharing a GPU: {error}")


def _check_count(requested: int, available: int, place: str) -> None:
    if requested > available:
        raise UserError(
            f"{requested} GPU(s) requested, but {place} {available}. Fix: lower --gpus-per-node "
            "(`gpus_per_node` in the profile); 0 is one process on the CPU"
        )


def _gpus() -> dict[str, bool]:
    """Return every GPU and whether a process computes on it.

    Keys are UUIDs, because nvidia-smi and CUDA number GPUs differently; numbers without nvidia-smi.
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
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split()


def _lock(name: str) -> int | None:
    """Return the open lock file of a GPU; None if another process holds the lock."""
    folder = Path(tempfile.gettempdir(), f"clip4vla-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
