"""Stopping in good order: a time limit, SIGTERM (Slurm, pre-emption) or Ctrl-C."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # USR2: what submitit asks Slurm to send


class Interrupted(Exception):
    """Raised inside `Stop.interrupting()` when a stop is asked for."""


class Stop:
    """Asks a loop to stop; used as a context, inside which signals are caught.

    A signal only sets `reason`, so that the loop ends its step and saves. More signals change
    nothing: Slurm and Snakemake both send one, and saving must not be cut short by the second.
    `max_seconds` counts from the creation of the object.
    """

    def __init__(self, max_seconds: float | None = None):
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.reason: str | None = None
        self._interrupting = False
        self._previous: dict = {}

    @property
    def requested(self) -> bool:
        """Whether to save and leave now."""
        if self.reason is None and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "time limit"
        return self.reason is not None

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A part that changes no state (validation): a signal ends it with `Interrupted`."""
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
