"""Merge the layers of a row's recipe, and find where each of its keys was set."""

from dataclasses import dataclass
from typing import Any

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.config.families import DEFAULT, FAMILIES, family_in, family_settings
from clip4vla.config.folds import filled, is_marked
from clip4vla.config.load import Config, problems_in_part, validated
from clip4vla.config.presets import chain
from clip4vla.config.recipe import Recipe
from clip4vla.config.table import Table
from clip4vla.config.yaml import COMMAND_LINE, Document, KeyPath, merge

Layer = tuple[list[Document], KeyPath, dict[str, Any]]  # documents, key path in them, value


def check_base(config: Config, documents: list[Document], name: str) -> None:
    """Refuse unknown keys and wrong types in a base that no row uses.

    Without a family in it, it may be for any of them.
    """
    base, found = config.bases[name], []
    for family in FAMILIES:
        value = merge({"model": {"family": family}}, base)
        found.append(problems_in_part(Recipe, value, documents, ("bases", name)))
    if all(found):
        raise UserError(*found[0])


@dataclass(frozen=True)
class Layers:
    """Layers of a row on a dataset.

    Lowest first: preset, config, the base that the row or its table extends, table, dataset,
    preset, row, dataset of the row. The lower preset has the values of the code, the upper one
    those of the table for the dataset. A layer that names another family than those below it
    replaces their `model`, whose keys are that family's.
    documents: of the config; document: of the table.
    """

    config: Config
    documents: list[Document]
    table: Table
    document: Document
    index: int  # of the row
    dataset: str

    def recipe(self, fold: int | None) -> Recipe:
        """Return the merged layers. UserError: a line per error, with file, row and key."""
        row, dataset = self.table.rows[self.index], self.config.datasets.get(self.dataset)
        value: dict[str, Any] = {}
        for _, _, patch in self._parts():
            value = merge(_of_the_family_of(patch, value), patch)
        try:
            family = family_settings(family_in(value.get("model")))
        except ValueError as error:
            place = self.place(("model", "family"))
            raise UserError(f"{place}: {self.name}: model.family: {error}") from None
        # A family that lacks the preset of the config has its own `ours`; a row's own is refused.
        known = self.config.preset in family.presets
        preset = row.preset or (self.config.preset if known else "ours")
        try:
            lowest = family.preset_values(preset, value, dataset.reader if dataset else None)
        except (AttributeError, TypeError):
            self._validated(value)  # a section that is no mapping, or the like: it says which
            raise
        except ValueError as error:  # a preset that the family does not have
            raise UserError(f"{self.row_place}: {self.name}: {error}") from None
        value = merge(lowest, value)
        if is_marked(value) != (fold is not None):
            place = self.document.place(("folds", self.dataset)) or self.row_place
            raise UserError(
                f"{place}: {self.name}: a dataset with `folds` needs {{fold}} in the splits of its "
                f"recipe, and {{fold}} needs folds.{self.dataset}. Fix: add the missing one"
            )
        if fold is not None:
            value = filled(value, fold)
        return self._validated(value)

    def _validated(self, value: dict[str, Any]) -> Recipe:
        """Return the recipe of merged values. UserError: a line per error, with file and row."""
        try:
            return validated(Recipe, value, [])
        except UserError as error:
            lines = [str(line).removeprefix(f"{COMMAND_LINE}: ") for line in error.args]
            places = [self.place(tuple(line.split(": ")[0].split("."))) for line in lines]
            named = zip(places, lines, strict=True)
            raise UserError(*(f"{place}: {self.name}: {line}" for place, line in named)) from None

    @property
    def name(self) -> str:
        """Return table and row, as messages name them."""
        return f"table {self.table.table}, row {self.table.rows[self.index].row}"

    @property
    def row_place(self) -> str | None:
        """Return file and line of the row."""
        return self.document.place(("rows", self.index))

    def place(self, key: KeyPath) -> str | None:
        """Return where a key was set: the highest layer that has the longest part of it."""
        longest, place = 0, None
        for documents, prefix, _ in self._parts():
            for document in documents:
                held = document.holds((*prefix, *key)) - len(prefix)
                if held >= max(longest, 1):
                    longest, place = held, document.place((*prefix, *key))
        return place or self.row_place

    def _parts(self) -> list[Layer]:
        """Return every layer."""
        table, dataset, row = self.table, self.dataset, self.table.rows[self.index]
        own = [self.document]
        return [
            (self.documents, ("recipe",), self.config.recipe),
            *self._extended(),
            (own, ("base",), table.base),
            (own, ("datasets", dataset), table.datasets.get(dataset, {})),
            *(
                (own, ("presets", name, dataset), patches[dataset])
                for name in chain(row.preset or self.config.preset)
                if dataset in (patches := table.presets.get(name, {}))
            ),
            (own, ("rows", self.index, "set"), row.set),
            (own, ("rows", self.index, "datasets", dataset), row.datasets.get(dataset, {})),
        ]

    def _extended(self) -> list[Layer]:
        """Return the layer that the row extends, or its table. UserError for an unknown name."""
        row, bases = self.table.rows[self.index], self.config.bases
        name = row.extends or self.table.extends
        if name is None:
            return []
        if name not in bases:
            key: KeyPath = ("rows", self.index, "extends") if row.extends else ("extends",)
            place = self.document.place(key)
            hint = did_you_mean(name, bases)
            raise UserError(f"{place}: extends: no base {name!r} in `bases` of the config{hint}")
        return [(self.documents, ("bases", name), bases[name])]


def _of_the_family_of(patch: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Return the layers below a patch, without their `model` if the patch names another family."""
    below, above = value.get("model"), patch.get("model")
    if not isinstance(below, dict) or not isinstance(above, dict) or "family" not in above:
        return value
    if above["family"] == below.get("family", DEFAULT):
        return value
    return {key: item for key, item in value.items() if key != "model"}
