"""The long table behind every view: one line per metric of an evaluation that a table uses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_text
from clip4vla.results.made_with import COLUMNS as MADE_WITH
from clip4vla.results.made_with import described
from clip4vla.results.metrics_file import Metrics, Varied, read_run_metrics
from clip4vla.results.sheet import Cell, Row, Sheet
from clip4vla.results.spreadsheet import spreadsheet_csv
from clip4vla.tracking.recorded import warn_unverified

HALF_WEIGHTS = "half-weight study"
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
    "metric",  # extras as dual_softmax/t2v_R1
    "value",  # recalls, accuracies and caption scores in percent; ranks in clips
    "low",  # 95 % interval over draws of clips
    "high",
    "pessimistic",  # all ties lost, all ties won; the value itself without ties
    "optimistic",
    "n_queries",
    "n_gallery",
    "ids_sha256",
    "n_expected",  # clips of the official list; empty when the config declares none
    "n_planned",
    "n_usable",
    "n_silent",
    "n_scored",
    "n_captions",  # per clip, as the protocol has them; empty where it says nothing
    "n_leaks_dropped",  # clips that pre-training left out; empty without such a check
    "small_batches",  # trainings whose batches had fewer samples than asked for; empty: none
    "policy",
    "selection",  # and whether the weights are those of the half-weight study
    "tie_rule",
    "data_version",
    "manifest_sha256",
    *MADE_WITH,
)
INTEGERS = tuple(name for name in COLUMNS if name.startswith("n_")) + ("seed",)


def build_tidy(sheets: Iterable[Sheet], runs: str | Path) -> pd.DataFrame:
    """Every metric of every finished evaluation of the sheets (columns: `COLUMNS`).

    `runs` is the folder with `<run_key>/metrics.json`. Evaluations that have not run are no
    lines here; the tables name them. Raises UserError for a metrics file that is invalid, is
    another run's, or has changed since its run wrote it.
    """
    lines: list[dict[str, Any]] = []
    read = _Read(Path(runs))
    for sheet in sheets:
        for row in sheet.rows:
            for cell in row.cells:
                lines.extend(_cell_lines(sheet, row, cell, read))
    if read.unverified:
        warn_unverified(read.unverified[0], len(read.unverified))
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return frame.astype({name: "Int64" for name in INTEGERS})


def write_tidy(path: str | Path, frame: pd.DataFrame) -> None:
    """Write the tidy table as CSV; floats are written so that they read back exactly."""
    write_text(path, spreadsheet_csv(frame))


class _Read:
    """The metrics below a folder of runs, each read and checked once."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.unverified: list[Path] = []
        self._known: dict[str, Metrics] = {}

    def __call__(self, key: str) -> tuple[Path, Metrics]:
        """Return the path of a run's metrics, and the metrics."""
        path = self.runs / key / "metrics.json"
        if key not in self._known:
            self._known[key], verified = read_run_metrics(path.parent, key)
            self.unverified += [] if verified else [path]
        return path, self._known[key]


def _cell_lines(sheet: Sheet, row: Row, cell: Cell, read: _Read) -> list[dict[str, Any]]:
    if cell.run_key is None or not (read.runs / cell.run_key / "metrics.json").is_file():
        return []
    path, found = read(cell.run_key)
    scored = _scored(path, found, sheet, row, cell)
    gallery = scored.galleries.get(cell.gallery)
    if gallery is None:
        raise UserError(
            f"{path}: no gallery {cell.gallery!r} (it has {', '.join(scored.galleries)}), "
            f"but table {sheet.table}, row {row.row} asks for it; change the table's gallery"
        )
    values = gallery.metrics | {
        f"{extra}/{name}": value
        for extra, metrics in gallery.extras.items()
        for name, value in metrics.items()
    }
    _check_metrics(path, sheet, row, cell, values)
    shared = {
        "table": sheet.table,
        "row": row.row,
        "label": row.label,
        "seed": cell.seed,
        "run_key": cell.run_key,
        "dataset": cell.dataset,
        "split": found.split,
        "protocol": gallery.protocol,
        "variant": cell.variant,
        "gallery": cell.gallery,
        "n_queries": gallery.n_queries,
        "n_gallery": gallery.n_gallery,
        "ids_sha256": gallery.ids_sha256,
        "n_expected": found.coverage.expected,
        "n_planned": found.coverage.planned,
        "n_usable": found.coverage.usable,
        "n_silent": found.coverage.silent,
        "n_scored": scored.scored if isinstance(scored, Varied) else found.coverage.scored,
        "n_captions": found.coverage.captions_per_clip,
        "n_leaks_dropped": (found.model_extra or {}).get("leaks_dropped"),
        "small_batches": _small_batches(found),
        "policy": scored.missing_audio,
        "selection": _selection(found),
        "tie_rule": found.tie_rule,
        "data_version": found.data_version,
        "manifest_sha256": found.manifest_sha256,
        **described(found.made_with),
    }
    lines = []
    for name, value in sorted(values.items()):
        low, high = gallery.intervals.get(name, (None, None))
        pessimistic, optimistic = gallery.bounds.get(name, (value, value))
        ends = {"low": low, "high": high, "pessimistic": pessimistic, "optimistic": optimistic}
        lines.append({**shared, "metric": name, "value": value, **ends})
    return lines


def _selection(found: Metrics) -> str | None:
    """How the checkpoint was chosen, with the label that keeps a study's numbers apart."""
    stages = (found.model_extra or {}).get("half_weights")
    if not stages:
        return found.selection
    return f"{found.selection} in the {HALF_WEIGHTS} ({', '.join(stages)})"


def _small_batches(found: Metrics) -> str | None:
    """Return such as `finetune 60 in place of 128`; None where no batch was smaller than asked."""
    stages = (found.model_extra or {}).get("small_batches") or {}
    said = [f"{stage} {size['used']} in place of {size['asked']}" for stage, size in stages.items()]
    return ", ".join(said) or None


def _scored(path: Path, found: Metrics, sheet: Sheet, row: Row, cell: Cell) -> Metrics | Varied:
    """The part of a metrics file that a cell shows: the evaluation itself, or a variant of it."""
    if not cell.variant:
        return found
    if cell.variant not in found.variants:
        raise UserError(
            f"{path}: no variant {cell.variant!r} (it has {', '.join(found.variants) or 'none'}), "
            f"but table {sheet.table}, row {row.row} asks for it; write the sheet again"
        )
    return found.variants[cell.variant]


def _check_metrics(path: Path, sheet: Sheet, row: Row, cell: Cell, found: dict) -> None:
    """A column that its evaluation does not have is a mistake in the table, not an empty cell."""
    for column in sheet.columns:
        metric = row.metrics.get(column.metric, column.metric)
        if column.dataset == cell.dataset and metric not in found:
            raise UserError(
                f"{path}: no metric {metric!r} (it has {', '.join(sorted(found))}), but table "
                f"{sheet.table}, row {row.row} asks for it; change the column or the row"
            )
