"""The long table behind every view: one line per metric of an evaluation that a table uses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from clip4vla.errors import UserError
from clip4vla.files import read_json, write_text
from clip4vla.results.sheet import Cell, Row, Sheet

COLUMNS = (
    "table",
    "row",
    "label",
    "seed",
    "run_key",
    "dataset",  # the table's name for it; data_version is what was really scored
    "split",
    "protocol",
    "variant",  # what was changed at test; empty: nothing
    "gallery",
    "metric",
    "value",  # recalls, accuracies and caption scores in percent; ranks in clips
    "n_queries",
    "n_gallery",
    "ids_sha256",
    "n_expected",  # clips of the official list; empty when the config declares none
    "n_planned",
    "n_usable",
    "n_silent",
    "n_scored",
    "n_leaks_dropped",  # clips that pre-training left out; empty without such a check
    "policy",
    "selection",
    "tie_rule",
    "data_version",
    "manifest_sha256",
)
INTEGERS = tuple(name for name in COLUMNS if name.startswith("n_")) + ("seed",)


def build_tidy(sheets: Iterable[Sheet], runs: str | Path) -> pd.DataFrame:
    """Every metric of every finished evaluation of the sheets (columns: `COLUMNS`).

    `runs` is the folder with `<run_key>/metrics.json`. Evaluations that have not run are no
    lines here; the tables name them. Raises UserError for a metrics file that is not one.
    """
    lines: list[dict[str, Any]] = []
    for sheet in sheets:
        for row in sheet.rows:
            for cell in row.cells:
                lines.extend(_cell_lines(sheet, row, cell, Path(runs)))
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.astype({name: "Int64" for name in INTEGERS})


def write_tidy(path: str | Path, frame: pd.DataFrame) -> None:
    """Write the tidy table as CSV; floats are written so that they read back exactly."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _cell_lines(sheet: Sheet, row: Row, cell: Cell, runs: Path) -> list[dict[str, Any]]:
    path = runs / str(cell.run_key) / "metrics.json"
    if cell.run_key is None or not path.is_file():
        return []
    try:
        metrics = read_json(path)
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); delete it and run the evaluation again"
        ) from None
    try:
        scored = _scored(path, metrics, sheet, row, cell)
        gallery = scored["galleries"].get(cell.gallery)
        if gallery is None:
            raise UserError(
                f"{path}: no gallery {cell.gallery!r} (it has {', '.join(scored['galleries'])}), "
                f"but table {sheet.table}, row {row.row} asks for it; change the table's gallery"
            )
        _check_metrics(path, sheet, row, cell, gallery["metrics"])
        coverage = metrics["coverage"]
        shared = {
            "table": sheet.table,
            "row": row.row,
            "label": row.label,
            "seed": cell.seed,
            "run_key": cell.run_key,
            "dataset": cell.dataset,
            "split": metrics["split"],
            "protocol": scored["protocol"],
            "variant": cell.variant,
            "gallery": cell.gallery,
            "n_queries": gallery["n_queries"],
            "n_gallery": gallery["n_gallery"],
            "ids_sha256": gallery["ids_sha256"],
            "n_expected": coverage["expected"],
            "n_planned": coverage["planned"],
            "n_usable": coverage["usable"],
            "n_silent": coverage["silent"],
            "n_scored": scored.get("scored", coverage["scored"]),
            "n_leaks_dropped": metrics.get("leaks_dropped"),
            "policy": scored["missing_audio"],
            "selection": metrics["selection"],
            "tie_rule": metrics["tie_rule"],
            "data_version": metrics["data_version"],
            "manifest_sha256": metrics["manifest_sha256"],
        }
        return [
            {**shared, "metric": name, "value": float(value)}
            for name, value in sorted(gallery["metrics"].items())
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the metrics of an evaluation ({type(error).__name__}: {error}); "
            "delete it and run the evaluation again"
        ) from None


def _scored(path: Path, metrics: dict, sheet: Sheet, row: Row, cell: Cell) -> dict:
    """The part of a metrics file that a cell shows: the evaluation itself, or a variant of it."""
    if not cell.variant:
        return metrics
    found = metrics.get("variants", {})
    if cell.variant not in found:
        raise UserError(
            f"{path}: no variant {cell.variant!r} (it has {', '.join(found) or 'none'}), but table "
            f"{sheet.table}, row {row.row} asks for it; write the sheet again"
        )
    return found[cell.variant]


def _check_metrics(path: Path, sheet: Sheet, row: Row, cell: Cell, found: dict) -> None:
    """A column that its evaluation does not have is a mistake in the table, not an empty cell."""
    for column in sheet.columns:
        metric = row.metrics.get(column.metric, column.metric)
        if column.dataset == cell.dataset and metric not in found:
            raise UserError(
                f"{path}: no metric {metric!r} (it has {', '.join(sorted(found))}), but table "
                f"{sheet.table}, row {row.row} asks for it; change the column or the row"
            )
