"""The runs behind the numbers of a table, with links to their files."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip4vla.results.sheet import Sheet, SheetCell

FILES = {  # of a run, in the order of their links
    "examples.html": "examples",
    "donors.html": "donors",
    "metrics.json": "numbers",
    "predictions.parquet": "predictions",
    "train.json": "training",
    "metrics.jsonl": "curve",
    "cost.json": "cost",
    "config.json": "config",
    "record.json": "record",
}
LOOKED_AT = ("examples.html", "donors.html")


@dataclass(frozen=True)
class Planned:
    """A run of the plan. before: keys of the runs that it starts from or takes donors from."""

    name: str
    stage: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run and its files that are there, as (text, address)."""

    key: str
    stage: str
    files: list[tuple[str, str]]


@dataclass(frozen=True)
class Behind:
    """An evaluation behind a number, and the runs that led to it."""

    of: str  # seed, fold and variant
    runs: list[Run]


@dataclass(frozen=True)
class Group:
    """All runs behind one row on one dataset. anchor: id on the page."""

    anchor: str
    row: str
    dataset: str
    runs: list[Behind] = field(default_factory=list)


class Folders:
    """The folders of runs, as a page in `out` links them."""

    def __init__(self, runs: str | Path, out: Path, planned: Mapping[str, Planned]) -> None:
        self.runs = Path(runs)
        self.out = out
        self.planned = planned

    def run(self, key: str) -> Run:
        """Return a run with its files that are there."""
        folder = self.runs / key
        files = [
            (text, os.path.relpath(folder / name, self.out))
            for name, text in FILES.items()
            if (folder / name).is_file()
        ]
        stage = self.planned[key].stage if key in self.planned else "evaluate"
        return Run(key, stage, files)

    def chain(self, key: str) -> list[Run]:
        """Return a run and all runs before it, each once."""
        keys = [key]
        for one in keys:
            before = self.planned[one].before if one in self.planned else ()
            keys += [parent for parent in before if parent not in keys]
        return [self.run(one) for one in keys]

    def looked_at(self) -> Iterator[tuple[str, str]]:
        """Yield (text, address) of the pages of examples and donors that are there."""
        for key, planned in sorted(self.planned.items(), key=lambda item: item[1].name):
            for name in LOOKED_AT:
                path = self.runs / key / name
                if path.is_file():
                    yield f"{planned.name}: {FILES[name]}", os.path.relpath(path, self.out)


def groups_of(sheet: Sheet, folders: Folders, anchor: str) -> dict[tuple[str, str], Group]:
    """Return the runs behind each (row, dataset) of a table."""
    groups: dict[tuple[str, str], Group] = {}
    for row in sheet.rows:
        seen = set()
        for cell in row.cells:
            identity = (cell.dataset, cell.run_key, cell.seed, cell.variant)
            if cell.run_key is None or identity in seen:
                continue
            seen.add(identity)
            place = (row.row, cell.dataset)
            if place not in groups:
                name = f"{anchor}-runs-{len(groups) + 1}"
                groups[place] = Group(name, row.label, sheet.dataset_label(cell.dataset))
            groups[place].runs.append(Behind(_of(cell), folders.chain(cell.run_key)))
    return groups


def _of(cell: SheetCell) -> str:
    parts = [] if cell.seed is None else [f"seed {cell.seed}"]
    parts += [cell.variant] if cell.variant else []
    return ", ".join(parts)
