"""Compare the splits that runs and config name with those that a dataset has.

A misspelt split is refused before anything is trained: while planning, if the reader names all
splits (`NAMES_ALL_SPLITS`) or the lists were read before, else as soon as they are read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from clip4vla.common.errors import did_you_mean
from clip4vla.config import layout
from clip4vla.config.plan import Plan
from clip4vla.datasets import reader_named

LISTS = "by its lists as they were read; if they have changed, set another `version`"


def unknown_splits(plan: Plan) -> list[str]:
    """Return one line for each split that its dataset cannot have, as far as is known by now.

    Splits of `expected` count as existing.
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
    """Return one line for each split of a dataset that runs read and that is not `known`."""
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
    reader = reader_named(plan.config.datasets[name].reader)
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
    """Yield (split, place in the config) of a dataset's splits."""
    for place, where in plan.places.items():
        if place[0] == name and len(place) == 2:
            yield place[1], where


def _of_reader(name: str) -> list[str]:
    """Return the splits of a reader that names them all; else an empty list."""
    reader = reader_named(name)
    if reader is None or not getattr(reader, "NAMES_ALL_SPLITS", False):
        return []
    splits = [split for protocol in reader.PROTOCOLS.values() for split in protocol.splits()]
    return list(dict.fromkeys(splits))


def _splits_in(path: Path) -> list[str] | None:
    """Return the splits of a table; None if it is missing, or corrupt: its reader reports that."""
    if not path.is_file():
        return None
    import pyarrow.parquet as pq  # late: most plans are made before there is a table

    try:
        return pq.read_table(path, columns=["split"])["split"].unique().to_pylist()
    except (OSError, ValueError, LookupError):
        return None
