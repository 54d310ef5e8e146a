"""Prepared views of an experiment in MLflow's UI: its best runs by the one number of a task.

MLflow keeps a view that somebody shares as a tag of the experiment; a link names it.
"""

import json

from clip4vla.config.metrics import MAIN, METRICS
from clip4vla.tracking.context import ROW

SHARED = "mlflow.sharedViewState."
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # opens the UI's right half
GALLERY = "all"
VERSION = "tags.`data_version`"
WIDTHS = {VERSION: 190}  # pixels; MLflow's own width, 100, cuts it


def experiment_tags(kind: str, experiment_id: str) -> dict[str, str]:
    """Return the tags of the experiment of a kind of stage."""
    if kind != "evaluate":
        return MODEL_TRAINING
    best = {
        metric.label: f"{'t2v_' if task == 'retrieval' else ''}{metric.name}"
        for task, metrics in METRICS.items()
        for metric in metrics
        if metric.shown == MAIN
    }
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    links = [f"[{label}]({page}&viewStateShareKey={name})" for label, name in best.items()]
    note = f"The best rows, with mean and spread over seeds, by {', '.join(links)}."
    views = {f"{SHARED}{name}": json.dumps(_sorted_by(name)) for name in best.values()}
    return {**MODEL_TRAINING, "mlflow.note.content": note, **views}


def is_view(tag: str) -> bool:
    """Return whether a tag is a prepared view, unlike a description that a user may edit."""
    return tag.startswith(SHARED)


def _sorted_by(name: str) -> dict[str, object]:
    """Return the state of MLflow's table of runs, best first by a metric."""
    metric = f"metrics.`{GALLERY}/{name}`"
    spread = f"metrics.`{GALLERY}/{name}_sd`"
    columns = [metric, spread, "metrics.`seeds`", VERSION]
    return {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": WIDTHS,
        "orderByKey": metric,
        "orderByAsc": False,
        "searchFilter": f"tags.{ROW} != ''",  # rows alone: sorted by a metric, seeds stand between
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
