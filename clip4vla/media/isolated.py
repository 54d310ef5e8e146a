"""Run a function in a separate process, where a crash or a hang is one failed call.

Decoders are large C libraries that read files from strangers. One file that kills its process,
never ends or takes all memory must not stop a shard of a thousand clips. The same bounds hold for
the ffmpeg binary that cuts clips: `run_bounded`.
"""

import contextlib
import ctypes
import gc
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0  # for one file and again for every 10 MB of it
MEMORY = 3 << 30  # bytes that one process may take
LOOK_SECONDS = 0.2  # between two measurements of its memory
PAGE = os.sysconf("SC_PAGE_SIZE")
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_STARTING = threading.Lock()  # a process that starts must not inherit half of another's pipe


class Crashed(RuntimeError):
    """The process died, or did not answer in time, while it worked on one argument."""


def patience(path: str | os.PathLike) -> float:
    """Return after how many seconds a file's decoder counts as hung, on slow machines too."""
    try:
        size = os.stat(path).st_size
    except OSError:  # missing or unreadable: the function raises a better error
        size = 0
    return PATIENCE_SECONDS * (1 + size / 10_000_000)


@dataclass
class _Child:
    """A started process, its pipe, and how many bytes of its parent's it began with."""

    process: ForkProcess
    pipe: Connection
    inherited: int


class Isolated:
    """`function` called in one child process, which may take `memory` bytes; a context manager.

    The child is forked, so it starts in milliseconds with all modules loaded; it closes every file
    of its parent (locks, pipes) and uses one thread. It starts with the first call and again after
    each crash. It ends with the thread that called it, even in a process that was killed. Memory
    that its parent held when it started, such as a model, does not count as the child's.
    """

    def __init__(self, function: Callable[[Any], Any], memory: int = MEMORY):
        self.function, self.memory = function, memory
        self._child: _Child | None = None
        self._seconds, self._deadline = 0.0, 0.0

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __call__(self, argument: Any, seconds: float) -> Any:
        """Return the function's result.

        Raises what it raises; Crashed if the child dies or goes beyond `seconds` or its memory.
        """
        self.ask(argument, seconds)
        return self.answer()[1]

    def ask(self, argument: Any, seconds: float) -> None:
        """Send an argument; each answer must then come within `seconds` of the one before."""
        if self._child is None:
            self._child = self._start()
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        with contextlib.suppress(OSError):  # a child that has died: `answer` raises Crashed
            self._child.pipe.send(argument)

    @property
    def pipe(self) -> Connection:
        """The pipe on which answers to the last argument come."""
        assert self._child is not None, "nothing was asked"
        return self._child.pipe

    def answer(self) -> tuple[bool, Any]:
        """Return (whether it is the last, value), and raise as a call does.

        A generator's items come as (False, item) each, then (True, None).
        """
        try:
            while not self.pipe.poll(self.pause()):
                if reason := self.excess():
                    raise Crashed(reason)
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            raise Crashed("the process died") from None
        except Crashed:
            self.end()
            raise
        self._deadline = time.monotonic() + self._seconds
        if kind == "error":
            raise value
        return kind == "end", value

    def pause(self) -> float:
        """Return the seconds to wait for an answer before `excess` is called again."""
        return min(LOOK_SECONDS, max(0.0, self._deadline - time.monotonic()))

    def excess(self) -> str:
        """Return which limit the child exceeds, or "".

        Its memory is measured, not limited, because libav gives other results when an allocation
        fails.
        """
        if time.monotonic() >= self._deadline:
            return f"no answer in {self._seconds:.0f} s"
        assert self._child is not None, "nothing was asked"
        return _excess_memory(self._child.process.pid, self.memory, self._child.inherited)

    def _start(self) -> _Child:
        context = multiprocessing.get_context("fork")
        with _STARTING:
            pipe, child_end = context.Pipe()
            process = context.Process(
                target=_serve, args=(self.function, child_end, os.getpid()), daemon=True
            )
            try:
                process.start()
            except OSError:
                pipe.close()
                raise
            finally:
                child_end.close()
        return _Child(process, pipe, inherited=_resident_bytes(process.pid))

    def end(self) -> None:
        """Kill the child; the next call starts another."""
        if self._child is not None:
            child, self._child = self._child, None
            child.pipe.close()
            child.process.kill()
            child.process.join()
            child.process.close()


def isolated_each(
    function: Callable[[Any], Iterator[Any]],
    arguments: Sequence[Any],
    seconds: Callable[[Any], float],
    processes: int,
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the argument, item) for the items of a generator function of each argument.

    (index, None) follows the last item.

    `processes` children work at once, each on one argument; its items keep their order. An item is
    the exception where the function raises, and Crashed where its child dies or needs more than
    `seconds(argument)` for one item; nothing more comes of that argument.
    """
    waiting = deque(enumerate(arguments))
    busy: dict[int, Isolated] = {}
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(Isolated(function)) for _ in range(processes)]
        while waiting or busy:
            while waiting and idle:
                index, argument = waiting.popleft()
                busy[index] = idle.pop()
                busy[index].ask(argument, seconds(argument))
            wait([one.pipe for one in busy.values()], min(one.pause() for one in busy.values()))
            for index, one in list(busy.items()):
                if not one.pipe.poll() and not one.excess():
                    continue
                try:
                    last, item = one.answer()
                except Exception as error:  # of this argument only
                    last, item = True, error
                if last:
                    idle.append(busy.pop(index))
                if item is not None:
                    yield index, item
                if last:
                    yield index, None


def run_bounded(command: Sequence[str], seconds: float, memory: int = MEMORY) -> int:
    """Run a command without input and return its exit code.

    Raises Crashed, and kills it, if it needs more than `seconds` or `memory` bytes.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=partial(_end_with, os.getpid())
    )
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                return process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                if reason := _excess_memory(process.pid, memory):
                    raise Crashed(reason) from None
                if time.monotonic() >= deadline:
                    raise Crashed(f"no answer in {seconds:.0f} s") from None
    finally:
        process.kill()
        process.wait()


def _excess_memory(pid: int | None, memory: int, inherited: int = 0) -> str:
    """Say that a process has taken more memory than it may, or ""."""
    return (
        f"more than {memory >> 20} MB of memory"
        if _resident_bytes(pid) > memory + inherited
        else ""
    )


def _resident_bytes(pid: int | None) -> int:
    """Return how many bytes a process has in memory, pages that it shares among them."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):  # it has ended; no Linux
        return 0


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it does."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def _serve(function: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    """Answer arguments until the pipe closes, then exit without running the parent's code."""
    try:
        _end_with(parent)
        _settle(pipe.fileno())
        while True:
            _answer(function, pipe.recv(), pipe)
    except (EOFError, OSError, KeyboardInterrupt):
        pass
    finally:
        os._exit(0)  # without flushing buffers, which are copies of the parent's


def _answer(function: Callable[[Any], Any], argument: Any, pipe: Connection) -> None:
    message: tuple[str, Any]
    try:
        result = function(argument)
        if inspect.isgenerator(result):
            for item in result:
                pipe.send(("item", item))
            result = None
        message = ("end", result)
    except Exception as error:  # sent to the parent, which raises it
        message = ("error", error)
    pipe.send(message)


def _settle(kept: int) -> None:
    """Leave the parent's files alone and use one thread."""
    gc.freeze()  # objects of the parent are not to be finalised here, with their files closed
    threading.excepthook = lambda _: (
        None
    )  # threads that libraries start in a child end without a word
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    if torch := sys.modules.get("torch"):  # threads do not survive a fork
        torch.set_num_threads(1)
