"""From the user's config to every run: rows expanded, checked and named, before anything starts.

A row on one dataset with one seed is a chain of runs (pretrain -> substitute -> finetune ->
evaluate). Chains share the runs whose scientific config is equal: the run key is its hash.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip4vla.config.base import Section
from clip4vla.config.chain import WEIGHTS, add_chain, datasets_of
from clip4vla.config.data import Cache
from clip4vla.config.folds import filled, is_marked
from clip4vla.config.load import Config, load_config, validated
from clip4vla.config.presets import chain, preset_values
from clip4vla.config.recipe import Recipe
from clip4vla.config.sections import GATES
from clip4vla.config.table import Row, Table, read_table
from clip4vla.config.variant import Variant
from clip4vla.config.yaml import COMMAND_LINE, Document, KeyPath, merge, undotted
from clip4vla.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One number of a table: a row on a dataset with a seed, and the evaluation that gives it."""

    table: str
    row: str
    dataset: str
    seed: int | None  # None: nothing is trained, no seed enters
    run_key: str
    fold: int | None = None  # None: the dataset has no folds in this table
    variant: str = ""  # name of the evaluation's variant; "": the evaluation itself
    galleries: tuple[str, ...] = ("all",)


@dataclass
class Plan:
    """All runs of the targets, by key, and what they need."""

    config: Config
    tables: dict[str, Table] = field(default_factory=dict)
    runs: dict[str, Section] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    caches: dict[tuple[str, str], Cache] = field(default_factory=dict)  # (version, cache id)
    versions: dict[str, str] = field(default_factory=dict)  # dataset version -> dataset name
    listed: dict[str, str] = field(default_factory=dict)  # the same, where the lists alone are read
    # (table, row, dataset) -> why it cannot be run
    without_data: dict[tuple[str, str, str], str] = field(default_factory=dict)
    # of a part of a plan: run key -> its name in the whole one
    whole_names: dict[str, str] = field(default_factory=dict)

    def stage(self, name: str) -> list[str]:
        """Run keys of one stage, sorted."""
        return sorted(key for key, run in self.runs.items() if run.stage == name)

    def parents(self, key: str) -> list[str]:
        """Run keys that a run starts from or takes donors from."""
        run = self.runs[key]
        links = (getattr(run, "start", None), getattr(run, "substitution", None))
        return [link for link in links if link is not None and not link.startswith(WEIGHTS)]

    def rows(self) -> dict[str, list[Cell]]:
        """The cells that need each run, for their number or on the way to it; in their order."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            todo = [cell.run_key]
            while todo:
                key = todo.pop()
                needed = rows.setdefault(key, [])
                if cell not in needed:
                    needed.append(cell)
                    todo.extend(self.parents(key))
        return rows

    def trainings(self, table: str) -> list[str]:
        """Run keys of everything that is trained on the way to a table's numbers."""
        return sorted(
            key
            for key, cells in self.rows().items()
            if self.runs[key].stage in ("pretrain", "finetune")
            and any(cell.table == table for cell in cells)
        )

    def names(self) -> dict[str, str]:
        """A readable name for every run: table/row/dataset/seed of the first cell that needs it."""
        names = dict(self.whole_names)
        for key, (cell, *_) in self.rows().items():
            seeded = cell.seed is not None and self.runs[key].stage in ("finetune", "evaluate")
            seed = f"/s{cell.seed}" if seeded else ""
            fold = f"/f{cell.fold}" if cell.fold is not None and seed else ""
            names[key] = f"{cell.table}/{cell.row}/{cell.dataset}{seed}{fold}"
        return names

    def sheet(self, name: str) -> dict[str, Any]:
        """A table's rows, columns and the runs behind its cells (`clip4vla.results.sheet`)."""
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
                {"dataset": dataset, "gallery": _wanted(table, dataset)[0], "no_data": reason}
                | {"seed": None, "run_key": None}
                for (of, own, dataset), reason in self.without_data.items()
                if (of, own) == (name, row.row)
            ]
            values = {"row": row.row, "label": row.label}
            values["metrics"] = self._own_metrics(table, row)
            values["at"] = getattr(row.variant, table.sweep) if table.sweep else None
            rows.append({**values, "cells": cells})
        shown = {"table", "title", "caption", "note", "comparable", "sweep"}
        shared = table.model_dump(include=shown)
        return {
            **shared,
            "paper_table": table.paper_table,
            "columns": [column.model_dump() for column in table.columns],
            "rows": rows,
            "trainings": self.trainings(name),
        }

    def _own_metrics(self, table: Table, row: Row) -> dict[str, str]:
        """Column metric -> the row's, where its direction has another name: t2a_R1 for t2v_R1."""
        mine = [c.run_key for c in self.cells if (c.table, c.row) == (table.table, row.row)]
        if not mine or self.runs[mine[0]].task != "retrieval":
            return {}
        letter = "a" if self.runs[mine[0]].modalities == ["audio"] else "v"
        found = {}
        for metric in dict.fromkeys(column.metric for column in table.columns):
            own = re.sub(r"^t2[av]_", f"t2{letter}_", re.sub(r"^[av]2t_", f"{letter}2t_", metric))
            if own != metric:
                found[metric] = own
        return found

    def run(self, key: str) -> Section:
        """The config of a run. Raises UserError for a key that no row of the targets uses."""
        if key not in self.runs:
            raise UserError(f"no run {key!r} in this config; `clip4vla plan` lists them")
        return self.runs[key]

    def dataset_of(self, version: str):
        """(name, Dataset) of a dataset version. Raises UserError when no run needs it."""
        known = self.listed | self.versions
        if version not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UserError(f"no dataset version {version!r} in this config; known: {names}")
        name = known[version]
        return name, self.config.datasets[name]

    def weights_of(self, run: Section) -> str | None:
        """The name, in the config's `weights`, of what a run starts from; None: of nothing there.

        That is the model's CLIP, unless the run starts from another run or from other weights.
        """
        start = getattr(run, "start", None)
        if start is None:
            return run.model.weights
        return start.removeprefix(WEIGHTS) if start.startswith(WEIGHTS) else None


def make_plan(files: list[Path], overrides: dict[str, Any] | None = None) -> Plan:
    """Load the config, read the tables of its targets and expand every row.

    Raises UserError (one line a mistake, with file, line and key) before anything is run.
    """
    return _planned(*load_config(files, overrides))


def used_keys(files: list[Path], overrides: dict[str, Any] | None = None) -> set[str]:
    """Run keys of every table in the config's folder, whether it is a target or not.

    Those of rows are among them whose data are disabled: their runs may be from before. UserError:
    as `make_plan`, also for a mistake in a table that is no target.
    """
    config, documents = load_config(files, overrides)
    found = sorted(path.stem for path in config.experiments.glob("[!.]*.yaml"))
    enabled = {k: v.model_copy(update={"enabled": True}) for k, v in config.datasets.items()}
    keys: set[str] = set()
    for datasets in (config.datasets, enabled):  # they decide what pre-training must not see
        whole = config.model_copy(update={"targets": found, "datasets": datasets})
        keys |= _planned(whole, documents).runs.keys()
    return keys


def _planned(config: Config, documents: list[Document]) -> Plan:
    plan = Plan(config)
    for target in config.targets:
        table, document = read_table(config.experiments, target)
        plan.tables[target] = table
        for index, row in enumerate(table.rows):
            for dataset in dict.fromkeys(column.dataset for column in table.columns):
                for fold in table.folds.get(dataset, [None]):
                    _expand(plan, table, index, row, dataset, document, documents, fold)
    return plan


def _expand(
    plan: Plan,
    table: Table,
    index: int,
    row: Row,
    dataset: str,
    document: Document,
    documents: list[Document],
    fold: int | None,
) -> None:
    where = f"{document.place(('rows', index))}: table {table.table}, row {row.row}"
    recipe = _recipe(plan.config, table, index, row, dataset, document, documents, fold)
    needed = datasets_of(recipe, dataset)
    for name in needed:
        if name not in plan.config.datasets:
            known = ", ".join(plan.config.datasets) or "none"
            raise UserError(f"{where}: no dataset {name!r} in the config; known: {known}")
    for name in (recipe.model.weights, recipe.pretrain and recipe.pretrain.start_from):
        if name and name not in plan.config.weights:
            known = ", ".join(plan.config.weights) or "none"
            raise UserError(f"{where}: no weights {name!r} in the config; known: {known}")
    disabled = [name for name in needed if not plan.config.datasets[name].enabled]
    if disabled:
        reason = f"no data: {', '.join(disabled)} disabled"
        plan.without_data[table.table, row.row, dataset] = reason
        return
    variants = _variants(plan, table, document, documents, recipe, dataset, fold)
    variant = row.variant or Variant()
    galleries = _galleries(table, recipe, variant, dataset, where)
    for seed in (row.seeds or table.seeds) if recipe.finetune else [None]:
        key = add_chain(plan, recipe, dataset, seed, variants)
        known = table.table, row.row, dataset, seed, key
        plan.cells.append(Cell(*known, fold, variant.name, galleries))


def _wanted(table: Table, dataset: str) -> tuple[str, ...]:
    gallery = table.galleries.get(dataset, table.gallery)
    return ("all", "with_sound") if gallery == "both" else (gallery,)


def _galleries(
    table: Table, recipe: Recipe, variant: Variant, dataset: str, where: str
) -> tuple[str, ...]:
    """The galleries that a cell shows: of those that the table wants, those that there are."""
    there = variant.galleries(recipe.modalities, recipe.missing_audio)
    found = tuple(gallery for gallery in _wanted(table, dataset) if gallery in there)
    if not found:
        raise UserError(
            f"{where}: missing_audio: {variant.missing_audio or recipe.missing_audio} leaves only "
            "clips with sound, but gallery is all; say gallery: with_sound in the table, or choose "
            "another policy"
        )
    return found


def _variants(
    plan: Plan,
    table: Table,
    document: Document,
    documents: list[Document],
    recipe: Recipe,
    dataset: str,
    fold: int | None,
) -> list[Variant]:
    """The variants of all rows of one recipe, in this table and those that go together with it."""
    tables = [(table, document)]
    for name in table.together_with:
        if name == table.table:
            place = document.place(("together_with",))
            raise UserError(f"{place}: together_with: {name} is the table itself")
        tables.append(read_table(plan.config.experiments, name))
    found: dict[str, Variant] = {}
    for other, of in tables:
        if dataset not in {column.dataset for column in other.columns}:
            continue
        for index, row in enumerate(other.rows):
            if row.variant is None or not row.variant.name:
                continue
            given = plan.config, other, index, row, dataset, of, documents, fold
            if _recipe(*given) != recipe:
                continue
            gated = recipe.model.fusion in GATES
            try:
                row.variant.check(recipe.modalities, recipe.model.type_token, gated)
            except ValueError as error:
                place = of.place(("rows", index, "variant"))
                message = f"table {other.table}, row {row.row}: {error}"
                raise UserError(f"{place}: {message}") from None
            found[row.variant.name] = row.variant
    return [found[name] for name in sorted(found)]


def _recipe(config, table, index, row, dataset, document, documents, fold=None) -> Recipe:
    """Layers, lowest first: preset, the config's recipe, table, dataset in the table, row.

    What the table says of a dataset under the row's preset lies above the dataset itself.
    """
    preset = row.preset or config.preset
    layers: list[tuple[list[Document], KeyPath, dict[str, Any]]] = [
        (documents, ("recipe",), undotted(config.recipe)),
        ([document], ("base",), undotted(table.base)),
        ([document], ("datasets", dataset), undotted(table.datasets.get(dataset, {}))),
        *(
            ([document], ("presets", name, dataset), undotted(patches[dataset]))
            for name in chain(preset)
            if dataset in (patches := table.presets.get(name, {}))
        ),
        ([document], ("rows", index, "set"), undotted(row.set)),
    ]
    value: dict[str, Any] = {}
    for _, _, patch in layers:
        value = merge(value, patch)
    known = config.datasets.get(dataset)
    value = merge(preset_values(preset, value, known and known.reader), value)
    if is_marked(value) != (fold is not None):
        place = document.place(("folds", dataset)) or document.place(("rows", index))
        raise UserError(
            f"{place}: table {table.table}, row {row.row}: a dataset with `folds` needs {{fold}} "
            f"in the splits of its recipe, and {{fold}} needs folds.{dataset}; one is missing"
        )
    if fold is not None:
        value = filled(value, fold)
    try:
        return validated(Recipe, value, [])
    except UserError as error:
        lines = []
        for line in str(error).splitlines():
            key = tuple(line.removeprefix(f"{COMMAND_LINE}: ").split(": ")[0].split("."))
            place = _place(layers, key) or document.place(("rows", index))
            message = line.removeprefix(f"{COMMAND_LINE}: ")
            lines.append(f"{place}: table {table.table}, row {row.row}: {message}")
        raise UserError("\n".join(lines)) from None


def _place(layers, key: KeyPath) -> str | None:
    """Where a key of a recipe was set: the highest layer that holds the longest part of it."""
    best, found = 0, None
    for documents, prefix, _ in layers:
        for document in documents:
            held = document.holds((*prefix, *key)) - len(prefix)
            if held >= max(best, 1):
                best, found = held, document.place((*prefix, *key))
    return found
