"""One module per dataset: its official annotation files -> clips and splits.

A reader module has `read(name, dataset) -> Collector`, `PROTOCOLS` (splits that are used together,
by name, and so must share no clip), `BENCHMARKS` (how splits are scored in the field, by split) and
`FILES_ARE_CLIPS`: whether a file of its media folder is already the clip or the whole source to cut
from. If it sets `NAMES_ALL_SPLITS`, PROTOCOLS name every possible split, so an unknown one is
refused before the annotation files exist. If it sets `IS_OWN`, its annotations are one table that a
user wrote, which `clip4vla data check` reads before the first job.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem

if TYPE_CHECKING:
    from clip4vla.datasets.tables import Annotations

__all__ = [
    "Benchmark",
    "Clip",
    "Protocol",
    "SplitItem",
    "benchmark_of",
    "official_clips",
    "own_clips",
    "read_annotations",
    "reader_named",
    "reader_of",
    "readers",
]


@cache
def readers() -> dict[str, ModuleType]:
    """Return every reader by its name: the modules of this folder that have PROTOCOLS."""
    found = {name: reader_named(name) for name in sorted(_modules((*__path__,)))}
    return {name: module for name, module in found.items() if module is not None}


def reader_named(name: str) -> ModuleType | None:
    """Return one reader, without importing the others; None if no reader has this name."""
    if name not in _modules((*__path__,)):
        return None
    module = importlib.import_module(f"{__name__}.{name}")
    return module if hasattr(module, "PROTOCOLS") else None


@cache
def _modules(folders: tuple[str, ...]) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(folders)}


def reader_of(name: str, dataset: Dataset) -> ModuleType:
    """Return the reader module of a dataset. Raises UserError for an unknown name."""
    reader = reader_named(dataset.reader)
    if reader is None:
        raise UserError(
            f"datasets.{name}.reader: unknown reader {dataset.reader!r}. "
            f"Fix: choose one of {', '.join(readers())}"
        )
    return reader


def benchmark_of(dataset: Dataset, split: str) -> Benchmark:
    """Return how the field scores a split; for a split that it does not know, one of that name.

    Works for frozen datasets even if the reader module was removed.
    """
    reader = reader_named(dataset.reader)
    return getattr(reader, "BENCHMARKS", {}).get(split, Benchmark(split))


def official_clips(dataset: Dataset, split: str) -> int | None:
    """Return how many clips a split officially has, or None if unknown.

    The benchmark's number takes precedence over `expected` of the config.
    """
    return benchmark_of(dataset, split).clips or dataset.expected_clips(split)


def own_clips(name: str, dataset: Dataset) -> dict[str, int]:
    """Return the clips of each split of a user's own table.

    {} for official lists, and for a table that is missing or invalid, which its own check reports.
    """
    reader = reader_named(dataset.reader)
    if not getattr(reader, "IS_OWN", False) or not dataset.annotations.exists():
        return {}
    try:
        splits = read_annotations(name, dataset).item_rows.table(["split"])["split"]
    except UserError:
        return {}
    return {count["values"]: count["counts"] for count in splits.value_counts().to_pylist()}


def read_annotations(name: str, dataset: Dataset) -> "Annotations":
    """Read and check the annotation files of dataset `name`.

    Raises UserError with one line that names dataset, file, line and fix.
    """
    reader = reader_of(name, dataset)
    return reader.read(name, dataset).annotations(reader.PROTOCOLS.values())
