"""Paired test of two evaluations on the same clips and queries."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.common.parquet import read_frame
from clip4vla.config.layout import remake
from clip4vla.config.metrics import directions
from clip4vla.config.sections import Query
from clip4vla.metrics.intervals import Difference, Median, Statistics, Totals, mean, paired
from clip4vla.metrics.recalls import rank_statistics
from clip4vla.metrics.retrieval import QueryRanks
from clip4vla.metrics.tagging import MeanPrecision, scored_labels
from clip4vla.metrics.text_clip import back_column
from clip4vla.tracking.recorded import check_recorded, warn_unverified

COLUMNS = {
    "retrieval": ["clip_id", "rank_best", "rank_worst"],
    "captioning": ["clip_id", "hypothesis", "references", "CIDEr"],
    "classification": ["clip_id", "label", "predicted"],
    "tagging": ["clip_id", "labels", "scores"],
}


class Comparison(NamedTuple):
    """Two runs on the same clips: differences by metric, second minus first."""

    dataset: str
    protocol: str
    n_queries: int
    n_clips: int
    ids_sha256: str
    differences: dict[str, Difference]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare the evaluations in two folders, each with metrics.json and predictions.parquet.

    Raises UserError when they are of different tasks, clips or queries.
    """
    (one, rows), (two, others) = _read(first), _read(second)
    if one["task"] != two["task"]:
        raise UserError(
            f"{first} is of task {one['task']} and {second} of {two['task']}. Fix: compare "
            "evaluations of one task"
        )
    main, other = (metrics["galleries"][metrics["gallery"]] for metrics in (one, two))
    if main["ids_sha256"] != other["ids_sha256"]:
        raise UserError(
            f"{first} and {second} scored different clips: {main['n_gallery']} "
            f"({one['gallery']}, ids {main['ids_sha256'][:12]}) and {other['n_gallery']} "
            f"({two['gallery']}, ids {other['ids_sha256'][:12]}). Fix: evaluate both under "
            "policies that score the same gallery"
        )
    if not _queries(one, rows).equals(_queries(two, others)):
        raise UserError(
            f"{first} and {second} scored different queries of the same clips. Fix: compare "
            "evaluations of the same captions, or of clips by the same query"
        )
    ids, clip = np.unique(rows.clip_id.to_numpy(), return_inverse=True)
    mine: Statistics
    theirs: Statistics
    if one["task"] == "captioning":
        mine, theirs = _of_captions(rows, others)
    elif one["task"] == "tagging":
        order = np.argsort(clip)
        labels = [set(labels) for labels in rows["labels"].iloc[order]]
        mine = {"mAP": _mean_precision(labels, one["classes"], rows["scores"].iloc[order])}
        theirs = {"mAP": _mean_precision(labels, two["classes"], others["scores"].iloc[order])}
    else:
        mine, theirs = _statistics(one, rows, clip), _statistics(two, others, clip)
    if not set(mine) & set(theirs):
        raise UserError(
            f"{first} and {second} have no metric in common: {', '.join(mine)} and "
            f"{', '.join(theirs)}. Fix: compare evaluations of the same modalities"
        )
    return Comparison(
        dataset=one["dataset"],
        protocol=main["protocol"],
        n_queries=len(rows),
        n_clips=len(ids),
        ids_sha256=main["ids_sha256"],
        differences=paired(mine, theirs, len(ids)),
    )


def _read(folder: Path) -> tuple[dict, pd.DataFrame]:
    paths = [folder / name for name in ("metrics.json", "predictions.parquet")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: missing. Fix: give the key of a finished evaluation")
    metrics = read_json(paths[0])
    verified = [check_recorded(path, metrics["run_key"]) for path in paths]
    if not all(verified):
        warn_unverified(paths[0], len(paths))
    columns = COLUMNS.get(metrics["task"], ["clip_id"])
    if metrics["task"] == "retrieval":
        columns = [*columns, *_asked(metrics), *_ranks_back(metrics)]
    rows = read_frame(paths[1], remake(paths[1]), columns)
    if metrics["task"] == "captioning":  # other galleries' clips have a hypothesis without CIDEr
        rows = rows[rows.CIDEr.notna()].reset_index(drop=True)
    return metrics, rows


def _query(metrics: dict) -> Query:
    query: Query = metrics.get("query", "text")
    return query


def _asked(metrics: dict) -> list[str]:
    """Return the columns that tell a query of a clip from another one of it."""
    return ["caption"] if _query(metrics) == "text" else []


def _ranks_back(metrics: dict) -> list[str]:
    """Return the columns with the ranks of the way back: best, worst, copies."""
    column = back_column(_query(metrics))
    return [f"{column}_{name}" for name in QueryRanks._fields]


def _queries(metrics: dict, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the queries behind the rows, which two runs must share."""
    match metrics["task"]:
        case "retrieval":
            return rows[["clip_id", *_asked(metrics)]]
        case "captioning":
            return rows[["clip_id"]].assign(references=rows.references.map(list))
        case _:
            return rows[["clip_id"]]


def _of_captions(
    first: pd.DataFrame, second: pd.DataFrame
) -> tuple[dict[str, Totals], dict[str, Totals]]:
    """Return the caption statistics of both, in PTB tokens, with clips sorted by id."""
    from clip4vla.metrics.captions import statistics_of

    references = {row.clip_id: list(row.references) for row in first.itertuples()}
    one, two = (dict(zip(rows.clip_id, rows.hypothesis, strict=True)) for rows in (first, second))
    mine, theirs = statistics_of(references, one, two)
    return mine, theirs


def _mean_precision(labels: list[set[str]], classes: list[str], scores: pd.Series) -> MeanPrecision:
    """Return the mAP over the labels of clips, sorted; scores: [C] of each clip."""
    found = scored_labels(labels, classes, np.stack(scores.to_list()))
    columns = [found.classes.index(label) for label in sorted(set().union(*labels))]
    return MeanPrecision(found.targets[:, columns], found.scores[:, columns])


def _statistics(metrics: dict, rows: pd.DataFrame, clip: np.ndarray) -> dict[str, Totals | Median]:
    """Return the metrics of a run's rows as functions of draws. clip: [n], of each row."""
    match metrics["task"]:
        case "retrieval":
            forward, backward = directions(metrics["modalities"], _query(metrics))
            ones = np.ones(len(rows), dtype=np.int64)
            to_clip = QueryRanks(rows.rank_best.to_numpy(), rows.rank_worst.to_numpy(), ones)
            first = rows.drop_duplicates("clip_id").sort_values("clip_id")
            to_text = QueryRanks(*(first[name].to_numpy() for name in _ranks_back(metrics)))
            statistics = rank_statistics(to_clip, clip, forward)
            return statistics | rank_statistics(to_text, np.arange(len(first)), backward)
        case "classification":
            correct = (rows.label == rows.predicted).to_numpy()
            return {"accuracy": mean(100.0 * correct, clip)}
        case task:
            raise UserError(
                f"no paired test for task {task}. Fix: compare evaluations of {', '.join(COLUMNS)}"
            )
