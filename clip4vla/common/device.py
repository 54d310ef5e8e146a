"""Device and precision of a run: CUDA in half precision where there is a GPU, else CPU."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import torch

from clip4vla.common.gpus import claim_one_or_share
from clip4vla.common.hardware import Hardware, no_device
from clip4vla.common.log import log
from clip4vla.common.onednn import LargeProducts, is_faster


def take(hardware: Hardware) -> tuple[torch.device, int]:
    """Take the device and the cores; return the device and the number of processes that read."""
    device = pick_device(hardware.device)
    readers = hardware.readers_on(device.type)
    set_threads(hardware.threads, readers)
    return device, readers


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of this name, or choose one.

    That is the CUDA device of this rank, or a free one without ranks; the CPU without CUDA. Raises
    UserError for a device that is not there.
    """
    if name is not None:
        return _named(name)
    if not torch.cuda.is_initialized():  # CUDA reads CUDA_VISIBLE_DEVICES only once
        claim_one_or_share()
    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    _keep_freed_memory()
    return torch.device("cpu")


def _named(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "meta":  # torch moves a model there, and forgets its numbers
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        # Of other kinds torch tells its own operators, or every name that it can parse.
        if str(name).startswith(("cuda", "meta")):
            raise no_device(name, str(error).splitlines()[0]) from None
        raise no_device(name) from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the kernel.

    Every batch has tensors of tens of MB. Mapped again at each step, they cost a page fault per
    4 KB, a fifth of the time of a small model. With another C library this has no effect.
    """
    mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, most)
        libc.mallopt(trim_threshold, most)


def set_threads(threads: int, readers: int = 0) -> None:
    """Compute with this many CPU threads less those that read, or fewer by OMP_NUM_THREADS.

    Warn if this process is bound to fewer CPUs, because the threads would wait for each other.
    """
    _warn_if_bound(threads)
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # may be a list, by nesting
    most = int(limit) if limit.isdigit() else threads
    torch.set_num_threads(max(1, min(threads - readers, most)))


def _warn_if_bound(threads: int) -> None:
    machine = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    if usable >= min(threads, machine):
        return
    if "SLURM_JOB_ID" in os.environ:
        fix = f"pass --cpus-per-task={threads} to srun itself (Slurm 22.05 to 23.02 needs it there)"
    else:
        fix = "lower --threads, or give the process more CPUs (taskset, the container's cpuset)"
    log.warning(
        f"--threads {threads}: this process is bound to {usable} of {machine} CPUs. Fix: {fix}"
    )


def half_type(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 if the GPU has it, float16 on older GPUs (V100), None (float32) on CPU."""
    if device.type != "cuda":
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def autocast(
    device: torch.device, model: torch.nn.Module | None = None
) -> contextlib.AbstractContextManager:
    """Return a context for forward passes in `half_type`; weights stay in float32 (D12).

    It has no effect for a `model` with `half_weights`, whose towers choose their precision. On a
    CPU see `in_float32`.
    """
    dtype = half_type(device)
    if dtype is None:
        return in_float32(device) if device.type == "cpu" else contextlib.nullcontext()
    if getattr(model, "half_weights", False):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Leave autocast for passes in float32, such as scores, which half precision would tie.

    On a CPU large products take less time where nothing is learnt (`LargeProducts`).
    """
    with torch.autocast(device.type, enabled=False):
        faster = device.type == "cpu" and is_faster() and not torch.is_grad_enabled()
        with LargeProducts() if faster else contextlib.nullcontext():
            yield


def full_precision(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which an autocast region around it does not halve tensors like `x`.

    Shapes without values (the meta device) have no autocast.
    """
    if x.is_meta:
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def as_autocast(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the type that an autocast region around it gives to products."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the batch with its tensors on `device`; lists of ids and captions are not changed."""

    def moved(value: object) -> object:
        if isinstance(value, dict):
            return to_device(value, device)
        return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

    return {key: moved(value) for key, value in batch.items()}
