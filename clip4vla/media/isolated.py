"""A function in a process of its own: what crashes or hangs there is one failed call, no more.

Decoders are large C libraries that read files from strangers. One file that kills its process must
not stop a shard of a thousand clips.
"""

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any


class Crashed(RuntimeError):
    """The process died, or did not answer in time, while it worked on one argument."""


class Isolated:
    """`function`, importable by name, called in one child process; use as a context manager.

    The child starts with the first call and again after each crash. It ends with its parent, even
    one that was killed: its pipe is then closed.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self.function, self.process, self.pipe = function, None, None

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def __call__(self, argument: Any, seconds: float) -> Any:
        """The function's result.

        Raises what it raises; Crashed if the child dies or needs more than `seconds`; RuntimeError
        if there is no starting it.
        """
        if self.process is None:
            self._start()
        try:
            self.pipe.send(argument)
            if not self.pipe.poll(seconds):
                raise Crashed(f"no answer in {seconds:.0f} s")
            failed, result = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._end()
            raise Crashed("the process died") from None
        except Crashed:
            self._end()
            raise
        if failed:
            raise result
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self.pipe.recv()  # a child that cannot even start says nothing about its argument
        except EOFError:
            self._end()
            raise RuntimeError("the process for decoding cannot start; why stands above") from None

    def _end(self) -> None:
        if self.process is not None:
            self.pipe.close()
            self.process.kill()
            self.process.join()
            self.process.close()
            self.process = self.pipe = None


def _serve(function: Callable, pipe) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        pipe.send("ready")
        while True:
            argument = pipe.recv()
            try:
                answer = (False, function(argument))
            except Exception as error:  # handed to the parent, which raises it
                answer = (True, error)
            pipe.send(answer)
