"""Labels of the clips of a split, checked against what a task needs."""

from collections.abc import Iterable

from clip4vla.common.errors import UserError
from clip4vla.loading.samples import Item


def several_labels(items: Iterable[Item], where: str) -> list[tuple[str, ...]]:
    """Return the labels of every item, as tagging reads them. UserError for a clip with none."""
    every = []
    for clip_id, _, labels in items:
        if not labels:
            raise UserError(
                f"{where}: clip {clip_id} has no label. Fix: add its label, or leave it out"
            )
        every.append(labels)
    return every


def single_labels(items: Iterable[Item], where: str) -> list[str]:
    """Return the label of every item, as classification reads them.

    Raises UserError for a clip with none or several.
    """
    items, single = list(items), []
    for (clip_id, _, _), labels in zip(items, several_labels(items, where), strict=True):
        if len(labels) > 1:
            raise UserError(
                f"{where}: clip {clip_id} has {len(labels)} labels ({'; '.join(labels)}), but "
                "classification needs one. Fix: set `task: tagging`"
            )
        single.append(labels[0])
    return single
