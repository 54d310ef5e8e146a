"""Plan all runs of a user's config: expand and check the rows before anything starts.

A row on one dataset with one seed is a chain of runs (pretrain -> substitute -> finetune ->
evaluate). Chains share the runs whose scientific config is equal: the run key is its hash.
"""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.chain import add_chains, datasets_of
from clip4vla.config.layers import Layers, check_base
from clip4vla.config.load import Config, load_config, place_in
from clip4vla.config.metrics import metric_names, own_name
from clip4vla.config.plan import Cell, Plan
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import sources_of
from clip4vla.config.table import Row, Table, read_table, tables_in
from clip4vla.config.variant import Variant
from clip4vla.config.yaml import Document, KeyPath


def make_plan(files: list[Path], overrides: dict[str, Any] | None = None) -> Plan:
    """Load the config, read the tables of its targets and expand every row.

    Raises UserError (one line per error, with file, line and key) before anything runs.
    """
    return _planned(*load_config(files, overrides))


def used_keys(files: list[Path], overrides: dict[str, Any] | None = None) -> set[str]:
    """Return the run keys of every table in the config's folder, whether it is a target or not.

    They include rows whose data are disabled, because their runs may be older. UserError: as
    `make_plan`, also for an error in a table that is not a target.
    """
    config, documents = load_config(files, overrides)
    tables = sorted({*config.targets, *(path.stem for path in tables_in(config.experiments))})
    enabled = {k: v.model_copy(update={"enabled": True}) for k, v in config.datasets.items()}
    keys: set[str] = set()
    for datasets in (config.datasets, enabled):  # they decide which clips pre-training leaves out
        whole = config.model_copy(update={"targets": tables, "datasets": datasets})
        keys |= _planned(whole, documents).runs.keys()
    return keys


def _planned(config: Config, documents: list[Document]) -> Plan:
    plan = Plan(config)
    shared = Shared(plan)
    for target in config.targets:
        table, document = shared.table(target)
        plan.tables[target], plan.files[target] = table, document
        for index, row in enumerate(table.rows):
            for dataset in dict.fromkeys(column.dataset for column in table.columns):
                for fold in table.folds.get(dataset, [None]):
                    layers = Layers(config, documents, table, document, index, dataset)
                    _expand(plan, shared, layers, row, fold)
    used = {table.extends for table in plan.tables.values()}
    used |= {row.extends for table in plan.tables.values() for row in table.rows}
    for name in sorted(config.bases.keys() - used):
        check_base(config, documents, name)
    for name in plan.listed.values():
        place = place_in(documents, ("datasets", name, "held_out"))
        for split in config.datasets[name].held_out:
            plan.places.setdefault((name, split), f"{place}: datasets.{name}.held_out")
    return plan


class Shared:
    """What rows share: each table is read once, each recipe merged once, and each chain built once.

    Rows with variants compare their recipes with one another, also across tables; rows that differ
    only in their variant have the same chains.
    """

    def __init__(self, plan: Plan) -> None:
        self._merged: dict[tuple[str, int, str, int | None], Recipe] = {}
        self.table = cache(partial(read_table, plan.config.experiments))
        self.chains = cache(partial(add_chains, plan))

    def recipe(self, layers: Layers, fold: int | None) -> Recipe:
        """Return the recipe of a row on a dataset. UserError: as `Layers.recipe`."""
        key = layers.table.table, layers.index, layers.dataset, fold
        if key not in self._merged:
            self._merged[key] = layers.recipe(fold)
        return self._merged[key]


def _expand(plan: Plan, shared: Shared, layers: Layers, row: Row, fold: int | None) -> None:
    table, dataset = layers.table, layers.dataset
    place = f"{layers.row_place}: {layers.name}"
    recipe = shared.recipe(layers, fold)
    needed = datasets_of(recipe, dataset)
    for name in needed:
        if name not in plan.config.datasets:
            hint = did_you_mean(name, plan.config.datasets)
            raise UserError(f"{place}: no dataset {name!r} in the config{hint}")
    initialise_from = recipe.pretrain.initialise_from if recipe.pretrain else None
    for weights in (*recipe.model.first_weights, initialise_from):
        if weights is not None and weights not in plan.config.weights:
            hint = did_you_mean(weights, plan.config.weights)
            raise UserError(f"{place}: no weights {weights!r} in the config{hint}")
    disabled = [name for name in needed if not plan.config.datasets[name].enabled]
    if disabled:
        reason = f"no data: {', '.join(disabled)} disabled"
        plan.without_data[table.table, row.row, dataset] = reason
        return
    variants = _variants(shared, layers, fold)
    variant = row.variant or Variant()
    _check_metrics(layers, recipe, variant, bool(variants))
    galleries = _galleries(table, recipe, variant, dataset, place)
    seeds = tuple(row.seeds or table.seeds) if recipe.finetune else (None,)
    for seed, key in zip(seeds, shared.chains(recipe, dataset, seeds, variants), strict=True):
        cell = Cell(
            table=table.table,
            row=row.row,
            dataset=dataset,
            seed=seed,
            run_key=key,
            fold=fold,
            variant=variant.name,
            galleries=galleries,
        )
        plan.cells.append(cell)
    _note_places(plan, layers, recipe, key)


def _check_metrics(layers: Layers, recipe: Recipe, variant: Variant, varied: bool) -> None:
    """Check that the row's evaluation has the metrics of the columns on its dataset."""
    names = partial(
        metric_names,
        task=recipe.task,
        modalities=recipe.modalities,
        each=recipe.model.scores_each_modality,
        frames=variant.frames,
        query=recipe.query,
    )
    known = names(varied=varied)
    for index, column in enumerate(layers.table.columns):
        metric = column.metric
        if recipe.task == "retrieval":
            metric = own_name(metric, recipe.modalities)
        if column.dataset != layers.dataset or metric in known:
            continue
        hint = did_you_mean(metric, known)
        if metric in names(varied=True):
            hint = "; only tables in which a row has a `variant` have it. Fix: add one"
        place = layers.document.place(("columns", index, "metric"))
        raise UserError(
            f"{place}: {layers.name}: task {recipe.task} has no metric {metric!r} here{hint}"
        )


def _note_places(plan: Plan, layers: Layers, recipe: Recipe, key: str) -> None:
    """Note which keys set the splits and the architecture of a row's runs; key: the last run."""
    sources: dict[tuple[str, ...], KeyPath] = {(layers.dataset, recipe.test): ("test",)}
    for name in ("train", "val") if recipe.finetune else ():
        split = getattr(recipe.finetune, name)
        sources.setdefault((layers.dataset, split), ("finetune", name))
    sources.setdefault((layers.dataset, recipe.donor_split), ("donor_split",))
    for index, source in enumerate(recipe.pretrain.sources if recipe.pretrain else ()):
        key_path = ("pretrain", "sources", index, "split")
        sources.setdefault((source.dataset, source.split), key_path)
    runs = [plan.runs[run] for run in plan.chain(key)]
    read = {(plan.versions[s.dataset], s.split) for run in runs for s in sources_of(run)}
    sources = {item: path for item, path in sources.items() if item in read}
    sources[recipe.model.architecture,] = ("model", "architecture")
    for item, path in sources.items():
        if item not in plan.places:
            named = ".".join(map(str, path))
            plan.places[item] = f"{layers.place(path)}: {layers.name}: {named}"


def _galleries(
    table: Table, recipe: Recipe, variant: Variant, dataset: str, place: str
) -> tuple[str, ...]:
    """Return the galleries of a cell: those of the table that the evaluation has."""
    available = variant.galleries(recipe.modalities, recipe.missing_audio)
    galleries = tuple(name for name in table.galleries_of(dataset) if name in available)
    if not galleries:
        raise UserError(
            f"{place}: missing_audio: {variant.missing_audio or recipe.missing_audio} leaves only "
            "clips with sound, but gallery is all. Fix: set gallery: with_sound in the table, or "
            "choose another policy"
        )
    return galleries


def _variants(shared: Shared, layers: Layers, fold: int | None) -> tuple[Variant, ...]:
    """Return the variants of all rows with a row's recipe, here and in `together_with`."""
    recipe = shared.recipe(layers, fold)
    table, document, dataset = layers.table, layers.document, layers.dataset
    tables = [(table, document)]
    for name in table.together_with:
        if name == table.table:
            place = document.place(("together_with",))
            raise UserError(f"{place}: together_with: {name} is the table itself. Fix: remove it")
        tables.append(shared.table(name))
    variants: dict[str, Variant] = {}
    for other, other_document in tables:
        if dataset not in {column.dataset for column in other.columns}:
            continue
        for index, row in enumerate(other.rows):
            if row.variant in (None, Variant()):
                continue
            others = replace(layers, table=other, document=other_document, index=index)
            if shared.recipe(others, fold) != recipe:
                continue
            try:
                row.variant.check(recipe.modalities, recipe.task, recipe.query)
                recipe.model.check_variant(row.variant)
            except ValueError as error:
                place = other_document.place(("rows", index, "variant"))
                message = f"table {other.table}, row {row.row}: {error}"
                raise UserError(f"{place}: {message}") from None
            variants[row.variant.name] = row.variant
    return tuple(variants[name] for name in sorted(variants))
