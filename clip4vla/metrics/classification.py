"""Accuracy of a classification and its interval."""

from collections.abc import Sequence

import numpy as np

from clip4vla.metrics.intervals import intervals, mean


def report_accuracy(labels: np.ndarray, predicted: np.ndarray) -> dict[str, dict]:
    """Return the part of metrics.json for one gallery: accuracy and its interval."""
    correct = mean(100.0 * (labels == predicted), np.arange(len(labels)))
    return {
        "metrics": {"accuracy": accuracy(labels, predicted)},
        "intervals": intervals({"accuracy": correct}, len(labels)),
    }


def accuracy(labels: Sequence[str] | np.ndarray, predicted: Sequence[str] | np.ndarray) -> float:
    """Return the share of correct labels in percent. Labels absent from training count as wrong."""
    return 100.0 * float(np.mean([a == b for a, b in zip(labels, predicted, strict=True)]))
