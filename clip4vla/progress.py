"""Progress of long work: a bar on a terminal, one line a minute in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOG_SECONDS = 60.0


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items of `iterable` and show how far they are.

    On a terminal a rich bar with rate and remaining time; elsewhere (logs of jobs) a plain line
    a minute, so that logs stay readable. `total` is needed only where `len()` does not work.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(
            iterable, description, total=total, console=Console(stderr=True), transient=True
        )
        return
    last = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if now - last > LOG_SECONDS:
            last = now
            print(f"{description}: {done}/{total or '?'}", file=sys.stderr, flush=True)
        yield item
