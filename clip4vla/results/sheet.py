"""The sheet of a table: its rows and columns, and the evaluations that fill its cells.

This is the format of `results/tables/<table>/rows.json`, into which an experiment is expanded.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.base import Section

GalleryName = Literal["all", "with_sound"]


class SheetColumn(Section):
    """One printed column: a metric on a dataset."""

    dataset: str = Field(description="name that cells refer to, such as msrvtt")
    metric: str = Field(description="as in metrics.json, such as t2v_R1")
    label: str = Field(description="heading, such as R@1")
    paper_dataset: str | None = Field(
        None, description="dataset of paper.tsv to compare with; null: the same name"
    )


class SheetCell(Section):
    """One evaluation of a row: a dataset, a seed, a gallery. Cells of one seed are folds."""

    dataset: str
    seed: int | None = Field(description="null where no seed enters, such as zero-shot scores")
    run_key: str | None = Field(description="of the evaluation; null: see `no_data`")
    gallery: GalleryName = "all"
    variant: str = Field("", description="of the evaluation, by name; empty: the evaluation itself")
    no_data: str | None = Field(None, description="why this cell cannot be run")


class SheetRow(Section):
    """One row of a table."""

    row: str
    label: str
    kind: Literal["ours", "paper"] = Field("ours", description="paper: a baseline, never run")
    no_data: str | None = Field(None, description="why no cell of this row can be run")
    metrics: dict[str, str] = Field(
        {}, description="column metric -> this row's, such as t2v_R1 -> t2a_R1 for audio alone"
    )
    at: float | None = Field(None, description="value of the table's sweep")
    pretrainings: list[str] = Field([], description="their run keys, in a table with `costs`")
    cells: list[SheetCell] = []


class Sheet(Section):
    """A table without its numbers."""

    table: str
    title: str
    caption: str = ""
    paper_table: str | list[str] | None = Field(
        None, description="table of paper.tsv, or several; null: the same name"
    )
    comparable: bool = Field(True, description="false: no verdict on ours beside the paper's")
    note: str = Field("", description="printed under the title; says why, when not comparable")
    sweep: str | None = Field(None, description="key of the config that differs between the rows")
    trainings: list[str] = Field([], description="run keys of the trainings behind its cells")
    costs: bool = Field(False, description="shows the cost of pre-training, the paper's and ours")
    footers: list[str] = Field([], description="more lines under the table, such as versions")
    dataset_labels: dict[str, str] = {}
    columns: list[SheetColumn] = Field(min_length=1)
    rows: list[SheetRow] = Field(min_length=1)

    @property
    def paper_tables(self) -> list[str]:
        """Return the tables of paper.tsv whose numbers it shows."""
        named = self.paper_table or self.table
        return [named] if isinstance(named, str) else named

    def datasets(self) -> list[str]:
        """Return the datasets of the columns, in order."""
        return list(dict.fromkeys(column.dataset for column in self.columns))

    def dataset_label(self, dataset: str) -> str:
        """Return the printed name of a dataset."""
        return self.dataset_labels.get(dataset, LABELS.get(dataset, dataset))

    def column_label(self, dataset: str, metric: str) -> str:
        """Return the heading of a column."""
        return next(c.label for c in self.columns if (c.dataset, c.metric) == (dataset, metric))


LABELS = {
    "msrvtt": "MSR-VTT",
    "vatex": "VATEX",
    "audiocaps": "AudioCaps",
    "esc50": "ESC-50",
    "ucf101": "UCF101",
    "audioset": "AudioSet",
    "audioset_20k": "AudioSet-20K",
    "audioset_2m": "AudioSet-2M",
    "vggsound": "VGGSound",
    "pretraining": "Pre-training",
    "demo": "demo clips",
}


def read_sheet(path: str | Path) -> Sheet:
    """Read and check a `rows.json`. Raises UserError with file, field and problem."""
    path = Path(path)
    try:
        sheet = Sheet.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}. Fix: write the sheet again") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Fix: write the sheet again") from None
    _check(path, sheet)
    return sheet


def _check(path: Path, sheet: Sheet) -> None:
    if not sheet.comparable and not sheet.note:
        raise UserError(
            f"{path}: comparable is false without a reason. Fix: give the reason in `note`"
        )
    known = set(sheet.datasets())
    rows: set[str] = set()
    for row in sheet.rows:
        where = f"{path}: row {row.row}"
        if row.row in rows:
            raise UserError(f"{where}: is there twice. Fix: give each row its own name")
        rows.add(row.row)
        if row.kind == "paper" and row.cells:
            raise UserError(f"{where}: a paper row has no cells. Fix: make it `ours` or drop them")
        if sheet.sweep and row.kind == "ours" and row.at is None:
            raise UserError(f"{where}: the table sweeps over {sheet.sweep}. Fix: give the row `at`")
        identities: set[tuple] = set()
        for cell in row.cells:
            if cell.dataset not in known:
                raise UserError(
                    f"{where}: no column has the dataset {cell.dataset!r}. Fix: add the column, or "
                    "remove the cell"
                )
            if (cell.run_key is None) == (cell.no_data is None):
                raise UserError(
                    f"{where}: a cell has a run_key or a no_data reason. Fix: give one, not both"
                )
            identity = (cell.dataset, cell.gallery, cell.seed, cell.run_key, cell.variant)
            if cell.run_key and identity in identities:
                raise UserError(
                    f"{where}: run {cell.run_key} is there twice for one seed. Fix: remove one cell"
                )
            identities.add(identity)
