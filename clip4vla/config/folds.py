"""Folds of a dataset: `{fold}` in a table's values stands for each of them in turn."""

from typing import Any

MARK = "{fold}"


def is_marked(value: Any) -> bool:
    """Whether `{fold}` stands in a value, at any depth."""
    if isinstance(value, dict):
        return any(map(is_marked, value.values()))
    if isinstance(value, list):
        return any(map(is_marked, value))
    return isinstance(value, str) and MARK in value


def filled(value: Any, fold: int) -> Any:
    """The value with a fold's number in place of every `{fold}`."""
    if isinstance(value, dict):
        return {key: filled(item, fold) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, fold) for item in value]
    return value.replace(MARK, str(fold)) if isinstance(value, str) else value
