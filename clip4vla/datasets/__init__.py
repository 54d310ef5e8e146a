"""One module per dataset: its official annotation files -> clips and splits.

A reader module has `read(name, dataset) -> Annotations` and `FILES_ARE_CLIPS`: whether a file of
its media folder is already the clip (as collections are passed around) or the whole source to cut
from.
"""

from types import ModuleType

from clip4vla.config.data import Dataset
from clip4vla.datasets import audioset, demo, howto100m, msrvtt, vatex
from clip4vla.datasets.clip import Annotations, Clip, SplitItem
from clip4vla.errors import UserError

READERS: dict[str, ModuleType] = {
    "audioset": audioset,
    "demo": demo,
    "howto100m": howto100m,
    "msrvtt": msrvtt,
    "vatex": vatex,
}

__all__ = ["READERS", "Annotations", "Clip", "SplitItem", "read_annotations", "reader_of"]


def reader_of(name: str, dataset: Dataset) -> ModuleType:
    """The reader module of a dataset; UserError for a name that no module has."""
    if dataset.reader not in READERS:
        raise UserError(
            f"datasets.{name}.reader is {dataset.reader!r}: choose one of {', '.join(READERS)}"
        )
    return READERS[dataset.reader]


def read_annotations(name: str, dataset: Dataset) -> Annotations:
    """Read and check the annotation files of dataset `name`.

    Raises UserError with one line that names dataset, file, line and remedy.
    """
    return reader_of(name, dataset).read(name, dataset)
