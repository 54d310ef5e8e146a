"""Splits that runs read and config names, against those that a dataset has.

A misspelt one is refused before anything is trained: while planning where the reader names all
splits (`NAMES_ALL_SPLITS`) or the lists are read already, else as soon as they are read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.datasets import readers
from clip4vla.errors import did_you_mean

LISTS = "as its lists were read; lists that have changed are another `version`"


def unknown_splits(plan: Plan) -> list[str]:
    """One line for each split that its dataset cannot have, as far as that is known by now.

    What stands in `expected` is believed.
    """
    lines = []
    for version, name in (plan.versions | plan.listed).items():
        dataset = plan.config.datasets[name]
        named = [split for split, _ in _named(plan, name) if split not in dataset.expected]
        if not named:
            continue
        path = Path(layout.data_dir(version), "splits.parquet")
        read = _splits_in(path)
        if read is not None:
            lines += lacking(plan, name, read, LISTS)
        elif known := _of_reader(dataset.reader):
            lines += lacking(plan, name, [*known, *dataset.expected], "")
    return lines


def lacking(plan: Plan, name: str, known: Iterable[str], why: str) -> list[str]:
    """One line for each split of a dataset that runs read and that is not among the known ones."""
    known = list(known)
    return [
        f"{where}: {name} has no split {split!r}{f', {why}' if why else ''}"
        f"{did_you_mean(split, known)}"
        for split, where in _named(plan, name)
        if split not in known
    ]


def _named(plan: Plan, name: str) -> Iterator[tuple[str, str]]:
    """(split, where it is said) of a dataset's splits."""
    for what, where in plan.places.items():
        if what[0] == name and len(what) == 2:
            yield what[1], where


def _of_reader(name: str) -> list[str]:
    """The splits of a reader that names them all; else none."""
    reader = readers().get(name)
    if not getattr(reader, "NAMES_ALL_SPLITS", False):
        return []
    splits = [split for protocol in reader.PROTOCOLS.values() for split in protocol.splits()]
    return list(dict.fromkeys(splits))


def _splits_in(path: Path) -> list[str] | None:
    """The splits of a table; None for none yet, and for a damaged one, which who reads it names."""
    try:
        return pq.read_table(path, columns=["split"])["split"].unique().to_pylist()
    except (OSError, ValueError, LookupError):
        return None
