"""One call of a side of a comparison, here or in a process of its own, and what it cost."""

import contextlib
import inspect
import math
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
GIB = 2**30


def set_threads(count: int) -> None:
    """Let libraries that are imported later, and torch at any time, use so many threads."""
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


set_threads(1)  # before numpy and torch are imported


class Round(NamedTuple):
    """Result and cost of one call of a side.

    gib: peak memory, of the process on a CPU, of torch's tensors on a GPU. held: the part of it
    that was in use there before, such as the parameters of all sides of a process and gradients of
    their last rounds; 0 on a CPU. flops, files: 0 and empty but in the first round.
    """

    result: Any
    wall: float
    cpu: float
    gib: float
    held: float
    flops: float
    files: frozenset[str]


def measure(step: Callable[[], Any], device: str = "cpu", first: bool = False) -> Round:
    """Call a side once; in the first round also count its operations and see which code it runs."""
    cuda = sys.modules["torch"].cuda if device == "cuda" else None
    files: set[str] = set()
    with contextlib.ExitStack() as stack:
        counter = None
        if first:
            files = stack.enter_context(executed())
        if first and "torch" in sys.modules:
            counter = stack.enter_context(operations())
        if cuda:
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
        held = cuda.memory_allocated() / GIB if cuda else 0.0
        wall, cpu = time.perf_counter(), cpu_seconds()
        result = step()
        if cuda:
            cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    flops = counter.get_total_flops() if counter else 0
    gib = cuda.max_memory_allocated() / GIB if cuda else peak_gib()
    return Round(result, wall, cpu, gib, held, flops, frozenset(files))


def operations() -> Any:
    """Return torch's counter of operations, which also knows two kernels of a CPU."""
    import torch._dynamo  # noqa: F401  60 MiB, else imported by sides alone that call torch
    from torch import ops
    from torch.utils import flop_counter as counts

    kernel = ops.aten._scaled_dot_product_flash_attention_for_cpu
    back = ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        ops.aten.mkldnn_linear: lambda x, weight, *_, **__: 2 * weight[0] * math.prod(x),
        kernel: lambda q, k, v, *_, **__: counts.sdpa_flop_count(q, k, v),
        back: lambda _, q, k, v, *__, **___: counts.sdpa_backward_flop_count(_, q, k, v),
    }
    return counts.FlopCounterMode(display=False, custom_mapping=formulas)


@contextlib.contextmanager
def executed() -> Iterator[set[str]]:
    """Yield a set that holds, after the block, the files of the package whose functions ran.

    Bodies of modules and classes, which run when they are imported, do not count.
    """
    names, files = set(), set()

    def called(frame, event, argument):
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            names.add(frame.f_code.co_filename)

    sys.setprofile(called)
    threading.setprofile(called)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        package = f"{REPO / 'clip4vla'}{os.sep}"
        files |= {str(Path(name).relative_to(REPO)) for name in names if name.startswith(package)}


def cpu_seconds() -> float:
    """Return user and system time of this process and of its children that have ended."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def peak_gib(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak memory of this process, or of the largest of its children that have ended.

    Linux counts in a process's `ru_maxrss` what its parent had.
    """
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.exists():
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(peak) / 2**20
    return resource.getrusage(who).ru_maxrss / 2**20


class Apart:
    """A side in a process of its own, whose peak memory is that side's.

    make(*arguments) is called there and returns what a round calls.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        threads = int(os.environ[THREADS[0]])
        self.process = context.Process(target=_serve, args=(theirs, threads, make, arguments))
        self.process.start()
        theirs.close()
        self._answer()  # it is ready

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join()

    def round(self, device: str, first: bool) -> Round:
        """Call the side once, there. RuntimeError with what it raised."""
        self.pipe.send((device, first))
        return self._answer()

    def _answer(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, RuntimeError):
            raise answer
        return answer


def _serve(
    pipe: Any, threads: int, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> None:
    set_threads(threads)
    try:
        step = make(*arguments)
        pipe.send(None)
        while True:
            device, first = pipe.recv()
            pipe.send(measure(step, device, first))
    except EOFError:  # the parent needs no more rounds
        return
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
        raise


def launches(step: Callable[[], Any], device: str) -> str:
    """Return how many kernels a call launches, and how often it waits for the device.

    It waits where a value or a shape is needed. On a CPU, calls of operators are counted.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 2 if device == "cuda" else 1]
    with profile(activities=kinds) as trace:
        step()
    if device == "cpu":
        waits = sum(map(_waits, trace.events()))
        calls = sum(event.name.startswith("aten::") for event in trace.events())
        return f"{calls} operator calls, {waits} waits"
    on_gpu = [event for event in trace.events() if event.device_type == DeviceType.CUDA]
    kernels = [event for event in on_gpu if not event.is_user_annotation]
    copies = [e.name for e in kernels if e.name.startswith(("Memcpy", "Memset"))]
    waits = sum("DtoH" in name for name in copies)
    return f"{len(kernels) - len(copies)} kernels and {len(copies)} copies launched, {waits} waits"


def _waits(event: Any) -> bool:
    """Return whether a GPU would be asked for a value or a shape by an event of a CPU's trace."""
    asks = event.name in ("aten::_local_scalar_dense", "aten::nonzero")
    while asks and (event := event.cpu_parent):
        asks = not event.name.startswith("aten::_fused")  # on a GPU the update counts there
    return asks
