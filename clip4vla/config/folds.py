"""Folds of a dataset: `{fold}` in a table's values is replaced by each of them in turn."""

from typing import Any

MARK = "{fold}"


def is_marked(value: Any) -> bool:
    """Return whether a value contains `{fold}`, at any depth."""
    if isinstance(value, dict):
        return any(map(is_marked, value.values()))
    if isinstance(value, list):
        return any(map(is_marked, value))
    return isinstance(value, str) and MARK in value


def filled(value: Any, fold: int) -> Any:
    """Return the value with every `{fold}` replaced by a fold's number."""
    if isinstance(value, dict):
        return {key: filled(item, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, fold) for item in value]
    return value.replace(MARK, str(fold)) if isinstance(value, str) else value
