"""A table or figure of the paper as data: `experiments/<table>.yaml`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from clip4vla.common.errors import UserError, did_you_mean
from clip4vla.common.packaged import see
from clip4vla.config.base import Name, OneLine, Printable, Section, each_once
from clip4vla.config.load import validated
from clip4vla.config.metrics import label_of
from clip4vla.config.presets import Preset
from clip4vla.config.variant import Variant
from clip4vla.config.yaml import Document, KeyPath, read_yaml

NO_PAPER = "none"  # `paper_table` of a table without published numbers
# Rules of the workflow and figures over all tables; tables give their names to both.
RESERVED_NAMES = frozenset(
    (
        *("all", "data", "pretrain", "tables", "report"),
        *("plan_dataset", "fetch_shard", "probe_shard", "ledger", "cache_shard", "freeze_dataset"),
        *("pretrain_run", "substitute", "finetune", "evaluate"),
        *("build_table", "build_row", "build_page", "snakemake_report"),
        *("sync_mlflow", "difference", "coverage", "cost"),
    )
)
Galleries = Literal["all", "with_sound", "both"]


class Column(Section):
    """One printed column: a metric on a dataset."""

    dataset: str = Field(description="name in `datasets` of the config")
    metric: str = Field(description="as in metrics.json, such as t2v_R1")
    label: OneLine = Field(
        default_factory=lambda column: label_of(column.get("metric", "")),
        description="heading, if not the metric's, such as R@1 for t2v_R1",
    )
    paper_dataset: str | None = Field(None, description="dataset of paper.tsv, if not the same")


class Row(Section):
    """One row: its name in files, its label in print, and its changes of the recipe."""

    row: Name = Field(description="name in files and commands")
    label: OneLine = Field(description="name in print")
    preset: Preset | None = Field(None, description="if not the config's")
    seeds: list[int] | None = Field(None, min_length=1, description="if not the table's")
    extends: str | None = Field(
        None, description="name in `bases` of the config, if not the table's"
    )
    set: dict[str, Any] = Field({}, description="changes to the table's base, keys of Recipe")
    datasets: dict[str, dict[str, Any]] = Field({}, description="changes of the row by dataset")
    variant: Variant | None = Field(
        None, description="other audio at test; rows that differ only in it share one evaluation"
    )

    _once = field_validator("seeds")(each_once)


class Table(Section):
    """A table: its rows, and the settings that they share."""

    table: Name = Field(description="as the file is named")
    title: OneLine = Field(description="heading in print")
    caption: Printable = Field("", description="content of the table")
    note: Printable = Field("", description="footnote of the table")
    paper_table: str | list[str] | None = Field(
        None,
        description="table of paper.tsv, if not the same, or several; none: no published numbers",
    )
    comparable: bool = Field(True, description="false: show the paper's numbers without a verdict")
    gallery: Galleries = Field(
        "all",
        description="clips that are ranked: all, or those with their own audio; both: a line for "
        "each",
    )
    galleries: dict[str, Galleries] = Field({}, description="by dataset, if not the table's")
    seeds: list[int] = Field([0], min_length=1, description="of fine-tuning; the spread is shown")
    folds: dict[str, list[int]] = Field(
        {}, description="by dataset: values of {fold}; a cell is the mean over them"
    )
    together_with: list[Name] = Field(
        [], description="tables whose variants are scored in the same evaluation"
    )
    sweep: Literal["nonverbal_share"] | None = Field(
        None, description="draw the columns as lines over this value of the rows' variants"
    )
    costs: bool = Field(False, description="show the cost of pre-training, the paper's and ours")
    columns: list[Column] = Field(min_length=1, description="see below")
    extends: str | None = Field(
        None, description="name in `bases` of the config, a layer below the table's own base"
    )
    base: dict[str, Any] = Field({}, description="recipe of every row: keys of Recipe")
    datasets: dict[str, dict[str, Any]] = Field({}, description="changes of the recipe by dataset")
    presets: dict[Preset, dict[str, dict[str, Any]]] = Field(
        {},
        description="changes by dataset in rows of a preset: `released: {NAME: {...}}`; "
        "released_half has those of released too",
    )
    rows: list[Row] = Field(min_length=1, description="see below")

    _once = field_validator("seeds", "together_with")(each_once)

    def galleries_of(self, dataset: str) -> tuple[str, ...]:
        """Return the galleries that a dataset's cells show, the main one first."""
        gallery = self.galleries.get(dataset, self.gallery)
        return ("all", "with_sound") if gallery == "both" else (gallery,)


def tables_in(folder: Path) -> list[Path]:
    """Return the files of tables, without hidden files of editors."""
    return sorted(folder.glob("[!.]*.yaml"))


def read_table(folder: Path, name: str) -> tuple[Table, Document]:
    """Read and check `<folder>/<name>.yaml`. Raises UserError with file and line."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [item.stem for item in tables_in(folder)]
        raise UserError(
            f"targets: no table {name!r}: {path} does not exist{did_you_mean(name, known)}"
        )
    document = read_yaml(path)
    if not document.value:
        raise UserError(
            f"{path}: empty table. Fix: write title, columns and rows{see('config.md')}"
        )
    table = validated(Table, document.value, [document])
    if table.table != name:
        raise UserError(
            f"{document.place(('table',))}: table: {table.table!r} is not the name of the file. "
            f"Fix: write {name!r}"
        )
    if name in RESERVED_NAMES:
        raise UserError(
            f"{document.place(('table',))}: table: {name!r} is a target, a rule or a figure of the "
            "workflow. Fix: choose another name for the file and the table"
        )
    names: set[str] = set()
    for index, row in enumerate(table.rows):
        if row.row in names:
            place = document.place(("rows", index))
            raise UserError(f"{place}: rows: duplicate row {row.row!r}. Fix: rename one")
        names.add(row.row)
    if not table.comparable and not table.note:
        place = document.place(("comparable",))
        raise UserError(f"{place}: comparable: false needs a reason. Fix: write it in `note`")
    _check_datasets(table, document)
    for index, row in enumerate(table.rows):
        if table.sweep and (row.variant is None or getattr(row.variant, table.sweep) is None):
            raise UserError(
                f"{document.place(('rows', index))}: row {row.row}: its variant has no "
                f"{table.sweep}, over which the table sweeps. Fix: add it"
            )
    return table, document


def _check_datasets(table: Table, document: Document) -> None:
    """Check that keys by dataset name datasets of columns, and that folds have no duplicates."""
    shown = {column.dataset for column in table.columns}
    by_dataset = {key: getattr(table, key) for key in ("datasets", "galleries", "folds")}
    paths: list[KeyPath] = [(key, name) for key, values in by_dataset.items() for name in values]
    paths += [("presets", key, name) for key, values in table.presets.items() for name in values]
    paths += [
        ("rows", index, "datasets", name)
        for index, row in enumerate(table.rows)
        for name in row.datasets
    ]
    for key_path in paths:
        if key_path[-1] not in shown:
            named = ".".join(map(str, key_path))
            raise UserError(
                f"{document.place(key_path)}: {named}: no column has this dataset. Fix: remove it"
            )
    for dataset, folds in table.folds.items():
        if not folds or len(set(folds)) < len(folds):
            place = document.place(("folds", dataset))
            raise UserError(
                f"{place}: folds.{dataset}: empty or duplicates. Fix: list each fold once"
            )
