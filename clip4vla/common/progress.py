"""Show the progress of long work: a bar on a terminal, one line a minute in a log."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import TypeVar

from clip4vla.common.log import log

T = TypeVar("T")
LOG_SECONDS = 60.0
BAR_SECONDS = 0.5  # between updates of the status, which may have to wait for a GPU
LINE = re.compile(r"(\S.*: \d+/(?:\d+|\?)(?:, [^,]* left)?)(?:, .*)?")  # as `track` writes it
END_BYTES = 65536  # of a log, in which its last line of progress is looked for


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    status: Callable[[], str] | None = None,
    counts: Callable[[T], bool] = lambda _: True,
    later: int = 0,
) -> Iterator[T]:
    """Yield the items of `iterable` and show the progress.

    A terminal gets a rich bar with the remaining time; the log of a job gets one plain line a
    minute. total: needed only where `len()` does not work. status: returns text to show with the
    bar or the line. counts: whether an item is a step; at others, only the status is renewed.
    later: further steps after these, as of later epochs, for the time left in the log.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from _bar(iterable, description, total, status, counts)
        return
    began = last = time.monotonic()
    done = 0
    for item in iterable:
        now = time.monotonic()
        if now - last > LOG_SECONDS:
            last = now
            ahead = total + later - done if total else 0
            left = f", {time_left(ahead * (now - began) / done)}" if total and done else ""
            more = f", {status()}" if status else ""
            log.info(f"{description}: {done}/{total or '?'}{left}{more}")
        yield item
        done += counts(item)


def time_left(seconds: float) -> str:
    """Format the time that work still takes, such as `12 min left`."""
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit} left"
    return f"{seconds / 60:.0f} min left" if seconds >= 60 else "< 1 min left"


def last_progress(log_file: Path) -> str | None:
    """Return the last progress in a job's log, without its status; None before the first."""
    try:
        with open(log_file, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - END_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    found = (LINE.fullmatch(line) for line in reversed(lines))
    return next((match[1] for match in found if match), None)


def _bar(
    iterable: Iterable[T],
    description: str,
    total: int | None,
    status: Callable[[], str] | None,
    counts: Callable[[T], bool],
) -> Iterator[T]:
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Bar(Progress):
        shown = ""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if self.shown:  # below the bar, where there is room
                yield Text(self.shown, style="dim")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        looked = time.monotonic()
        for item in iterable:
            now = time.monotonic()
            if status and now - looked > BAR_SECONDS:
                looked, bar.shown = now, status()
            yield item
            bar.advance(task, counts(item))
