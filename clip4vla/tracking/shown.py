"""Numbers of a stage that become MLflow metrics: those that people sort and compare runs by.

An evaluation has hundreds (variants, rules of ranking, ties); the artifact numbers.json has all.
"""

from clip4vla.config.metrics import FILES, WHITESPACE, Metric, metric_of

SELECTED = "val_value"  # of a training: the main metric of the selected epoch


def shown(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers that MLflow shows: at most one level deep, such as `all/t2v_R1`."""
    return {name: value for name, value in numbers.items() if _is_shown(name)}


def is_score(name: str) -> bool:
    """Return whether a metric says how good a run is, so that its mean over seeds is shown."""
    metric = _metric(name)
    return name == SELECTED or (metric is not None and metric.unit != "cost")


def _is_shown(name: str) -> bool:
    if name.count("/") > 1 or name.endswith(WHITESPACE):
        return False
    metric = _metric(name)
    return metric is None or metric.unit == "cost" or metric.shown < FILES


def _metric(name: str) -> Metric | None:
    try:
        return metric_of(name.rpartition("/")[2])
    except ValueError:
        return None  # a count, a loss
