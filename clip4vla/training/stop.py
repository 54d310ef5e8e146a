"""Orderly stops: at a time limit, SIGTERM (Slurm, pre-emption) or Ctrl-C."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # USR2: submitit has Slurm send it


class Interrupted(Exception):
    """A stop was requested inside `Stop.interrupting()`."""


class Stop:
    """A request to stop a loop; a context inside which signals are caught.

    A signal only sets `reason`, so that the loop ends its step and saves. Further signals are
    ignored: Slurm and Snakemake both send one, and the second must not interrupt saving.
    max_seconds: from the creation of the object.
    """

    def __init__(self, max_seconds: float | None = None):
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.reason: str | None = None
        self._interrupting = False
        self._previous: dict = {}

    @property
    def requested(self) -> bool:
        """Whether to save and stop now."""
        if self.reason is None and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "time limit"
        return self.reason is not None

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `Interrupted` at a signal, inside work that changes no state (validation)."""
        self._interrupting = True
        try:
            if self.reason is not None:
                raise Interrupted
            yield
        finally:
            self._interrupting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if self._interrupting:
            raise Interrupted

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
