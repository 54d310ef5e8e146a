"""Splits that runs read and config names, against those that a dataset has.

A misspelt one is refused before anything is trained: while planning where the reader names all
splits (`NAMES_ALL_SPLITS`) or the lists are read already, else as soon as they are read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from clip4vla.common.errors import did_you_mean
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.datasets import readers

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
    known = list(dict.fromkeys(known))
    return [
        f"{where}: {name} has no split {split!r}{f', {why}' if why else ''}"
        f"{did_you_mean(split, _of_its_roles(plan, name, split, known))}"
        for split, where in _named(plan, name)
        if split not in known
    ]


def _of_its_roles(plan: Plan, name: str, split: str, known: list[str]) -> list[str]:
    """Return the known splits that serve the same role as `split` (training, validation, test)."""
    roles = _roles(plan, name)
    wanted = roles.get(split, set())
    reader = readers().get(plan.config.datasets[name].reader)
    for protocol in getattr(reader, "PROTOCOLS", {}).values():
        for role in ("train", "val", "test"):
            roles.setdefault(getattr(protocol, role), set()).add(role)
    return [other for other in known if not wanted or wanted & roles.get(other, wanted)]


def _roles(plan: Plan, name: str) -> dict[str | None, set[str]]:
    """Return the roles in which the runs use each split of a dataset: train, val, test."""
    roles: dict[str | None, set[str]] = {}
    for run in plan.runs.values():
        used = [("train", source) for source in getattr(run, "sources", [])]
        used += [(role, getattr(run, role, None)) for role in ("train", "val", "test")]
        used += [("train", getattr(run, "donors", None))]
        for role, source in used:
            if source is not None and plan.versions.get(source.dataset) == name:
                roles.setdefault(source.split, set()).add(role)
    return roles


def _named(plan: Plan, name: str) -> Iterator[tuple[str, str]]:
    """(split, where it is said) of a dataset's splits."""
    for what, where in plan.places.items():
        if what[0] == name and len(what) == 2:
            yield what[1], where


def _of_reader(name: str) -> list[str]:
    """The splits of a reader that names them all; else none."""
    reader = readers().get(name)
    if reader is None or not getattr(reader, "NAMES_ALL_SPLITS", False):
        return []
    splits = [split for protocol in reader.PROTOCOLS.values() for split in protocol.splits()]
    return list(dict.fromkeys(splits))


def _splits_in(path: Path) -> list[str] | None:
    """The splits of a table; None for none yet, and for a damaged one, which who reads it names."""
    try:
        return pq.read_table(path, columns=["split"])["split"].unique().to_pylist()
    except (OSError, ValueError, LookupError):
        return None
