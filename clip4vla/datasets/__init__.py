"""One module per dataset: its official annotation files -> clips and splits.

A reader module has `read(name, dataset) -> Collector`, `PROTOCOLS` (splits that are used together,
by name, and so must share no clip), `BENCHMARKS` (how splits are scored in the field, by split) and
`FILES_ARE_CLIPS`: whether a file of its media folder is already the clip (as collections are passed
around) or the whole source to cut from. `NAMES_ALL_SPLITS`, if it is there and true: PROTOCOLS name
every split that there can be, so that another one is refused before the files are there.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets.clip import Benchmark, Clip, Protocol, SplitItem
from clip4vla.datasets.collect import Annotations

__all__ = [
    "Annotations",
    "Benchmark",
    "Clip",
    "Protocol",
    "SplitItem",
    "benchmark_of",
    "official_clips",
    "read_annotations",
    "reader_of",
    "readers",
]


@cache
def readers() -> dict[str, ModuleType]:
    """Every reader by its name: the modules of this folder that have PROTOCOLS."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in found.items() if hasattr(module, "PROTOCOLS")}


def reader_of(name: str, dataset: Dataset) -> ModuleType:
    """The reader module of a dataset; UserError for a name that no module has."""
    if dataset.reader not in readers():
        raise UserError(
            f"datasets.{name}.reader is {dataset.reader!r}: choose one of {', '.join(readers())}"
        )
    return readers()[dataset.reader]


def benchmark_of(dataset: Dataset, split: str) -> Benchmark:
    """How a split is scored; one that the field does not know has its own name.

    What is frozen needs no reader any more: without its module the same holds.
    """
    reader = readers().get(dataset.reader)
    return getattr(reader, "BENCHMARKS", {}).get(split, Benchmark(split))


def official_clips(dataset: Dataset, split: str) -> int | None:
    """Return how many clips a split officially has; None where neither source says.

    The protocol of a benchmark decides, whatever the config declares; other splits have `expected`.
    """
    return benchmark_of(dataset, split).clips or dataset.expected_clips(split)


def read_annotations(name: str, dataset: Dataset) -> Annotations:
    """Read and check the annotation files of dataset `name`.

    Raises UserError with one line that names dataset, file, line and remedy.
    """
    reader = reader_of(name, dataset)
    return reader.read(name, dataset).annotations(reader.PROTOCOLS.values())
