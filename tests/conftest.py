"""What holds for all tests: one CPU thread a process, signals that arrive, long files first."""

import os
import signal
from pathlib import Path

# Tests run side by side, and equal bits need an equal thread count.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts what is to run in its background without Ctrl-C; tests of interrupts need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = ("workflow", "slurm", "tracking", "training")  # folders with the files that take longest


def pytest_collection_modifyitems(items):
    """Long files first: workers that take whole files then end at about the same time."""
    here = Path(__file__).parent

    def place(item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)
