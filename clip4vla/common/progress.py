"""Show the progress of long work: a bar on a terminal, one line a minute in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from clip4vla.common.log import log

T = TypeVar("T")
LOG_SECONDS = 60.0
BAR_SECONDS = 0.5  # between updates of the status, which may have to wait for a GPU


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    status: Callable[[], str] | None = None,
    counts: Callable[[T], bool] = lambda _: True,
) -> Iterator[T]:
    """Yield the items of `iterable` and show the progress.

    A terminal gets a rich bar with the remaining time; the log of a job gets one plain line a
    minute. total: needed only where `len()` does not work. status: returns text to show with the
    bar or the line. counts: whether an item is a step; at others, only the status is renewed.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from _bar(iterable, description, total, status, counts)
        return
    last, done = time.monotonic(), 0
    for item in iterable:
        now = time.monotonic()
        if now - last > LOG_SECONDS:
            last = now
            more = f", {status()}" if status else ""
            log.info(f"{description}: {done}/{total or '?'}{more}")
        yield item
        done += counts(item)


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
