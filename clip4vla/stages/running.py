"""Report the progress of running jobs in Snakemake's log, as their own logs tell it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.progress import LOG_SECONDS, last_progress
from clip4vla.config import layout

MOST = 10  # lines at once


@dataclass(frozen=True)
class Job:
    """A job that runs here or on a cluster. run_key: of a training or the like."""

    title: str
    logs: tuple[str, ...]
    run_key: str | None = None


def watch(
    running: Callable[[], Iterable[Job]],
    tell: Callable[[str], None],
    seconds: float = LOG_SECONDS,
) -> threading.Thread:
    """Tell the progress of the running jobs once a minute, from a thread that ends with Python."""
    told: dict[str, str] = {}

    def work() -> None:
        while True:
            time.sleep(seconds)
            with contextlib.suppress(OSError):  # a log that is removed meanwhile
                for line in progress_lines(list(running()), told):
                    tell(line)

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    return thread


def progress_lines(jobs: list[Job], told: dict[str, str]) -> list[str]:
    """Return a line for each job that has come further; `told` has the last one by title."""
    lines = []
    for job in jobs:
        progress = _progress(job)
        if progress is not None and told.get(job.title) != progress:
            told[job.title] = progress
            lines.append(f"{job.title}: {progress}")
    more = len(lines) - MOST
    return [*lines[:MOST], *([f"(and {more} more jobs)"] if more > 0 else ())]


def _progress(job: Job) -> str | None:
    """Return the progress in the newest log of a job that has any."""
    logs = [Path(name) for name in job.logs]
    if job.run_key is not None:  # a training in a Slurm job of its own: of its first rank
        logs += Path(layout.state_dir(job.run_key)).glob("slurm/*/*_0_log.err")
    there = [path for path in logs if path.is_file()]
    newest = sorted(there, key=lambda path: path.stat().st_mtime, reverse=True)
    return next((found for path in newest if (found := last_progress(path))), None)
