"""Prepared views of an experiment in MLflow's UI: its best runs by the one number of a task.

MLflow keeps a view that somebody shares as a tag of the experiment; a link names it.
"""

import json

from clip4vla.config.metrics import MAIN, METRICS
from clip4vla.tracking.context import ROW

SHARED = "mlflow.sharedViewState."
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # opens the UI's right half
GALLERIES = {"all": "", "with_sound": "; on clips with sound alone by "}
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
    note, views = "The best rows, with mean and spread over seeds, by ", {}
    for gallery, words in GALLERIES.items():
        keys = {label: _key(gallery, name) for label, name in best.items()}
        links = [f"[{label}]({page}&viewStateShareKey={key})" for label, key in keys.items()]
        note += words + ", ".join(links)
        for name in best.values():
            views[SHARED + _key(gallery, name)] = json.dumps(_sorted_by(f"{gallery}/{name}"))
    return {**MODEL_TRAINING, "mlflow.note.content": f"{note}.", **views}


def _key(gallery: str, name: str) -> str:
    return name if gallery == "all" else f"{gallery}_{name}"


def is_view(tag: str) -> bool:
    """Return whether a tag is a prepared view, unlike a description that a user may edit."""
    return tag.startswith(SHARED)


def _sorted_by(name: str) -> dict[str, object]:
    """Return the state of MLflow's table of runs, best first by a metric."""
    metric, spread = f"metrics.`{name}`", f"metrics.`{name}_sd`"
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
