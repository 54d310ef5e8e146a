"""The plan: all runs of the targets, their names and dependencies, and the cells of tables."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.data import Cache, Dataset
from clip4vla.config.keys import dataset_version
from clip4vla.config.load import Config
from clip4vla.config.metrics import own_name
from clip4vla.config.run import Evaluate, Run
from clip4vla.config.table import Row, Table
from clip4vla.config.yaml import Document

EVALUATE = "evaluate"
TRAINED = ("pretrain", "finetune")  # stages that make weights
RUNS_LIST = "clip4vla runs ls"
WEIGHTS = "weights:"  # prefix of a `start` that names one of the config's `weights`


@dataclass(frozen=True)
class Cell:
    """One number of a table: a row on a dataset with a seed, and the evaluation behind it."""

    table: str
    row: str
    dataset: str
    seed: int | None  # None: nothing is trained
    run_key: str
    fold: int | None = None  # None: the dataset has no folds in this table
    variant: str = ""  # name of the evaluation's variant; "": the evaluation itself
    galleries: tuple[str, ...] = ("all",)


@dataclass
class Plan:
    """All runs of the targets, by key, and the data that they read."""

    config: Config
    tables: dict[str, Table] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    caches: dict[tuple[str, str], Cache] = field(default_factory=dict)  # (version, cache id)
    versions: dict[str, str] = field(default_factory=dict)  # dataset version -> dataset name
    listed: dict[str, str] = field(default_factory=dict)  # the same, if only its lists are read
    # (table, row, dataset) -> reason why it cannot be run
    without_data: dict[tuple[str, str, str], str] = field(default_factory=dict)
    files: dict[str, Document] = field(default_factory=dict)  # of the tables
    # (dataset, split) and (architecture,) that runs read -> file, line and key that name it first
    places: dict[tuple[str, ...], str] = field(default_factory=dict)
    # for a part of a plan: run key -> its name in the whole plan
    whole_names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def version_of(self) -> dict[str, str]:
        """Return the version of every dataset of the config, by name."""
        return {name: dataset_version(name, item) for name, item in self.config.datasets.items()}

    def stage(self, name: str) -> list[str]:
        """Return the run keys of one stage, sorted."""
        return sorted(key for key, run in self.runs.items() if run.stage == name)

    def parents(self, key: str) -> list[str]:
        """Return the keys of runs that a run starts from or takes donors from."""
        run = self.runs[key]
        names = ("start", "substitution", "text_substitution")
        links: list[str | None] = [getattr(run, name, None) for name in names]
        return [link for link in links if link is not None and not link.startswith(WEIGHTS)]

    def chain(self, key: str) -> list[str]:
        """Return the keys of a run and of all its ancestors."""
        keys = [key]
        for link in keys:
            keys += [parent for parent in self.parents(link) if parent not in keys]
        return keys

    def rows(self) -> dict[str, list[Cell]]:
        """Return, for each run, the cells whose chain it is part of, in the order of cells."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            for key in self.chain(cell.run_key):
                rows.setdefault(key, []).append(cell)
        return rows

    def trainings(self, table: str, row: str | None = None) -> list[str]:
        """Return the keys of all training runs behind a table's numbers, or a row's."""
        return sorted(
            key
            for key, cells in self.rows().items()
            if self.runs[key].stage in TRAINED
            and any(cell.table == table and row in (None, cell.row) for cell in cells)
        )

    def names(self) -> dict[str, str]:
        """Return a readable name of every run: table/row/dataset/seed of the first cell with it."""
        names = dict(self.whole_names)
        for key, (cell, *_) in self.rows().items():
            names[key] = _name_of(cell, seeded=self.runs[key].stage in ("finetune", EVALUATE))
        return names

    @cached_property
    def titles(self) -> dict[str, str]:
        """Return what messages call each run: its first row, how many more need it, and its key."""
        titles = {}
        for key, cells in self.rows().items():
            others = len({(cell.table, cell.row) for cell in cells}) - 1
            more = f" and {others} more row{'s' if others > 1 else ''}" if others else ""
            seeded = self.runs[key].stage in ("finetune", EVALUATE)
            first = _name_of(cells[0], seeded=seeded, marks=(", seed ", ", fold "))
            titles[key] = f"{first}{more} ({key})"
        return titles

    def key_of(self, name: str, stages: Collection[str] = (EVALUATE,)) -> str:
        """Return the key of a run, by its key or by its row, such as table5/scratch/msrvtt/s0.

        The row's run of one of the stages is meant, unless a stage is named before it, as in
        finetune:table5/scratch/msrvtt/s0. What a name leaves out at its end may be anything, as
        long as one run fits. UserError otherwise.
        """
        if name in self.runs:
            return name
        stage, _, row = name.rpartition(":")
        row = row.removeprefix("results/rows/").strip("/")
        known: list[str] = []  # names of cells
        fitting: dict[str, str] = {}  # key of a run -> its first name
        for cell in self.cells:
            one = _name_of(cell, seeded=True)
            for key in self.chain(cell.run_key):
                own = self.runs[key].stage
                if own not in ([stage] if stage else stages):
                    continue
                known.append(one)
                if f"{one}/".startswith(f"{row}/"):
                    fitting.setdefault(key, one if own == EVALUATE else f"{own}:{one}")
        if not fitting:
            hint = did_you_mean(row, known, RUNS_LIST)
            raise UserError(f"no run {name!r} in this config{hint}")
        if len(fitting) > 1:
            some = ", ".join(f"{one} ({key})" for key, one in list(fitting.items())[:4])
            raise UserError(
                f"{name}: {len(fitting)} runs fit, such as {some}. Fix: name one of them"
            )
        return next(iter(fitting))

    def sheet(self, name: str) -> dict[str, Any]:
        """Return a table's rows, columns and the runs behind its cells (`results.sheet`)."""
        table = self.tables[name]
        rows = []
        for row in table.rows:
            cells = [
                {
                    "dataset": c.dataset,
                    "seed": c.seed,
                    "run_key": c.run_key,
                    "gallery": gallery,
                    "variant": c.variant,
                }
                for c in self.cells
                if (c.table, c.row) == (name, row.row)
                for gallery in c.galleries
            ]
            cells += [
                {
                    "dataset": dataset,
                    "gallery": table.galleries_of(dataset)[0],
                    "no_data": reason,
                }
                | {"seed": None, "run_key": None}
                for (of, own, dataset), reason in self.without_data.items()
                if (of, own) == (name, row.row)
            ]
            values: dict[str, Any] = {"row": row.row, "label": row.label}
            values["metrics"] = self._own_metrics(table, row)
            values["at"] = getattr(row.variant, table.sweep) if table.sweep else None
            if table.costs:
                trained = self.trainings(name, row.row)
                values["pretrainings"] = [k for k in trained if self.runs[k].stage == "pretrain"]
            rows.append({**values, "cells": cells})
        shown = {"table", "title", "caption", "note", "comparable", "sweep", "costs"}
        shared = table.model_dump(include=shown)
        return {
            **shared,
            "paper_table": table.paper_table,
            "columns": [column.model_dump() for column in table.columns],
            "rows": rows,
            "trainings": self.trainings(name),
        }

    def _own_metrics(self, table: Table, row: Row) -> dict[str, str]:
        """Return column metric -> the row's metric where they differ, such as t2a_R1 for t2v_R1."""
        mine = [c.run_key for c in self.cells if (c.table, c.row) == (table.table, row.row)]
        run = self.runs[mine[0]] if mine else None
        if not isinstance(run, Evaluate) or run.task != "retrieval":
            return {}
        own = {column.metric: own_name(column.metric, run.modalities) for column in table.columns}
        return {metric: name for metric, name in own.items() if name != metric}

    def run(self, key: str) -> Run:
        """Return the config of a run. UserError for a key that no row of the targets uses."""
        if key not in self.runs:
            raise UserError(f"no run {key!r} in this config. Fix: choose one of `{RUNS_LIST}`")
        return self.runs[key]

    def dataset_of(self, version: str) -> tuple[str, Dataset]:
        """Return (name, Dataset) of a dataset version. UserError when no run needs it."""
        known = self.listed | self.versions
        if version not in known:
            hint = did_you_mean(version, sorted(known))
            raise UserError(f"no dataset version {version!r} in this config{hint}")
        name = known[version]
        return name, self.config.datasets[name]

    def weights_of(self, run: Run) -> list[str]:
        """Return the names in the config's `weights` of a run's initial weights; []: not there.

        These are the model's CLIP or the like, unless the run starts from another run or other
        weights.
        """
        start = run.start
        if start is None:
            return run.model.first_weights
        return [start.removeprefix(WEIGHTS)] if start.startswith(WEIGHTS) else []


def command_of(stage: str, key: str) -> str:
    """Return the command that does the stage of a run."""
    return f"clip4vla {'train' if stage in TRAINED else stage} {key}"


def _name_of(cell: Cell, *, seeded: bool, marks: tuple[str, str] = ("/s", "/f")) -> str:
    """Return table/row/dataset of a cell; seeded: and its seed and fold, behind their marks."""
    seed = f"{marks[0]}{cell.seed}" if seeded and cell.seed is not None else ""
    fold = f"{marks[1]}{cell.fold}" if seed and cell.fold is not None else ""
    return f"{cell.table}/{cell.row}/{cell.dataset}{seed}{fold}"
