"""The tidy table behind all views: one line per metric of an evaluation that a table uses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_text
from clip4vla.results.made_with import COLUMNS as MADE_WITH
from clip4vla.results.made_with import described
from clip4vla.results.metrics_file import GalleryScores, Metrics, Varied, read_run_metrics
from clip4vla.results.sheet import Sheet, SheetCell, SheetRow
from clip4vla.results.spreadsheet import spreadsheet_csv
from clip4vla.tracking.recorded import warn_unverified

HALF_WEIGHTS = "half-weight study"
UNKNOWN = "unknown"
COLUMNS = (
    "table",
    "row",
    "label",
    "seed",
    "run_key",
    "dataset",  # the table's name for it; data_version has the scored version
    "split",
    "protocol",
    "variant",  # change at test; empty: none
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
    "n_same_video",  # clips of a video of another clip of the gallery; empty: not counted
    "n_expected",  # clips of the official list; empty when the config declares none
    "n_planned",
    "n_usable",
    "n_silent",
    "n_scored",
    "n_captions",  # per clip, of the protocol; empty: none declared
    "n_leaks_dropped",  # clips that pre-training left out; empty without such a check
    "leaks_kept",  # clips of videos that pre-training has read, of the scored ones; empty: none was
    "classes",  # of mAP: how many count, and how many of these and of others are special
    "small_batches",  # trainings whose batches had fewer samples than asked for; empty: none
    "n_rescored",  # first candidates of each query that a second score ranks; empty: none
    "policy",
    "selection",  # and whether the weights are those of the half-weight study
    "tie_rule",
    "data_version",
    "manifest_sha256",
    *MADE_WITH,
)
INTEGERS = tuple(name for name in COLUMNS if name.startswith("n_")) + ("seed",)


def build_tidy(sheets: Iterable[Sheet], runs: str | Path) -> pd.DataFrame:
    """Return every metric of every finished evaluation of the sheets (columns: `COLUMNS`).

    `runs` is the folder with `<run_key>/metrics.json`. Evaluations that have not run have no lines
    here; the tables list them. Raises UserError for a metrics file that is invalid, is another
    run's, or has changed since its run wrote it.
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
    """Write the tidy table as CSV; floats read back exactly."""
    write_text(path, spreadsheet_csv(frame))


class _Read:
    """Metrics files of a folder of runs, each read and checked once."""

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


def _cell_lines(sheet: Sheet, row: SheetRow, cell: SheetCell, read: _Read) -> list[dict[str, Any]]:
    if cell.run_key is None or not (read.runs / cell.run_key / "metrics.json").is_file():
        return []
    path, metrics = read(cell.run_key)
    scored = _scored(path, metrics, sheet, row, cell)
    gallery = scored.galleries.get(cell.gallery)
    if gallery is None:
        raise UserError(
            f"{path}: no gallery {cell.gallery!r} (it has {', '.join(scored.galleries)}), "
            f"but table {sheet.table}, row {row.row} needs it. Fix: change the table's gallery"
        )
    values = gallery.metrics | {
        f"{extra}/{name}": value
        for extra, extras in gallery.extras.items()
        for name, value in extras.items()
    }
    _check_metrics(path, sheet, row, cell, values)
    shared = {
        "table": sheet.table,
        "row": row.row,
        "label": row.label,
        "seed": cell.seed,
        "run_key": cell.run_key,
        "dataset": cell.dataset,
        "split": metrics.split,
        "protocol": gallery.protocol,
        "variant": cell.variant,
        "gallery": cell.gallery,
        "n_queries": gallery.n_queries,
        "n_gallery": gallery.n_gallery,
        "ids_sha256": gallery.ids_sha256,
        "n_same_video": gallery.same_video,
        "n_expected": metrics.coverage.expected,
        "n_planned": metrics.coverage.planned,
        "n_usable": metrics.coverage.usable,
        "n_silent": metrics.coverage.silent,
        "n_scored": scored.scored if isinstance(scored, Varied) else metrics.coverage.scored,
        "n_captions": metrics.coverage.captions_per_clip,
        "n_leaks_dropped": (metrics.model_extra or {}).get("leaks_dropped"),
        "leaks_kept": _leaks_kept(metrics),
        "classes": _classes(gallery),
        "small_batches": _small_batches(metrics),
        "n_rescored": metrics.rescored,
        "policy": scored.missing_audio,
        "selection": _selection(metrics),
        "tie_rule": metrics.tie_rule,
        "data_version": metrics.data_version,
        "manifest_sha256": metrics.manifest_sha256,
        **described(metrics.made_with),
    }
    lines = []
    for name, value in sorted(values.items()):
        low, high = gallery.intervals.get(name, (None, None))
        pessimistic, optimistic = gallery.bounds.get(name, (value, value))
        ends = {"low": low, "high": high, "pessimistic": pessimistic, "optimistic": optimistic}
        lines.append({**shared, "metric": name, "value": value, **ends})
    return lines


def _selection(metrics: Metrics) -> str | None:
    """Return how the checkpoint was chosen, with the label of a half-weight study."""
    stages = (metrics.model_extra or {}).get("half_weights")
    if not stages:
        return metrics.selection
    return f"{metrics.selection} in the {HALF_WEIGHTS} ({', '.join(stages)})"


def _leaks_kept(metrics: Metrics) -> str | None:
    """Return `12 of 100` of the main gallery's clips, `unknown`, or None without pre-training."""
    kept = (metrics.model_extra or {}).get("leaks_kept")
    if kept is not None:
        return f"{kept:,} of {metrics.coverage.scored:,}"
    made = metrics.made_with
    pretrained = made and (made.imported or any(t.stage == "pretrain" for t in made.trainings))
    return UNKNOWN if pretrained else None


def _classes(gallery: GalleryScores) -> str | None:
    """Return such as `520 count, 7 without positives left out`; None where no mAP is stated."""
    classes = (gallery.model_extra or {}).get("classes")
    if classes is None:
        return None
    special = {"without_positives": "without positives left out", "untrained": "never trained"}
    named = [f"{classes[key]} {text}" for key, text in special.items() if classes.get(key)]
    return ", ".join([f"{classes['counted']} count", *named])


def _small_batches(metrics: Metrics) -> str | None:
    """Return such as `finetune 60 in place of 128`; None where no batch was smaller than asked."""
    stages = (metrics.model_extra or {}).get("small_batches") or {}
    texts = (
        f"{stage} {size['used']} in place of {size['asked']}" for stage, size in stages.items()
    )
    return ", ".join(texts) or None


def _scored(
    path: Path, metrics: Metrics, sheet: Sheet, row: SheetRow, cell: SheetCell
) -> Metrics | Varied:
    """Return the part of a metrics file that a cell shows: the evaluation, or a variant of it."""
    if not cell.variant:
        return metrics
    if cell.variant not in metrics.variants:
        known = ", ".join(metrics.variants) or "none"
        raise UserError(
            f"{path}: no variant {cell.variant!r} (it has {known}), but table "
            f"{sheet.table}, row {row.row} needs it. Fix: write the sheet again"
        )
    return metrics.variants[cell.variant]


def _check_metrics(path: Path, sheet: Sheet, row: SheetRow, cell: SheetCell, metrics: dict) -> None:
    """Raise UserError for a column whose metric the evaluation does not have."""
    for column in sheet.columns:
        metric = row.metrics.get(column.metric, column.metric)
        if column.dataset == cell.dataset and metric not in metrics:
            raise UserError(
                f"{path}: no metric {metric!r} (it has {', '.join(sorted(metrics))}), but table "
                f"{sheet.table}, row {row.row} needs it. Fix: change the column or the row"
            )
