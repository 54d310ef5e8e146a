"""Accuracy of a classification and its interval."""

from collections.abc import Sequence

import numpy as np

from clip4vla.metrics.intervals import intervals, mean


def report_accuracy(labels: np.ndarray, predicted: np.ndarray) -> dict[str, dict]:
    """What metrics.json states of one gallery: accuracy and its interval."""
    right = mean(100.0 * (labels == predicted), np.arange(len(labels)))
    stated = {"metrics": {"accuracy": accuracy(labels, predicted)}}
    return stated | {"intervals": intervals({"accuracy": right}, len(labels))}


def accuracy(labels: Sequence[str] | np.ndarray, predicted: Sequence[str] | np.ndarray) -> float:
    """Share of right labels in percent. A label that training never had counts as wrong."""
    return 100.0 * float(np.mean([a == b for a, b in zip(labels, predicted, strict=True)]))
