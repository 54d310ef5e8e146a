"""One CPU thread a process: tests run side by side, and equal bits need an equal thread count."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

LONG = ("workflow", "slurm", "tracking", "training")  # folders with the files that take longest


def pytest_collection_modifyitems(items):
    """Long files first: workers that take whole files then end at about the same time."""
    here = Path(__file__).parent

    def place(item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)
