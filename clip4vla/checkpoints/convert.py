"""Conversion of any supported file of weights to a model of this project with its settings."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config.families import FAMILIES
from clip4vla.models.common.archives import read_weight_file, unknown_file
from clip4vla.models.common.conversion import Conversion
from clip4vla.models.common.tensor_files import Tensors, read_metadata
from clip4vla.models.family import Family, family_of


def family_of_file(path: Path, tensors: Tensors) -> Family:
    """Return the family of a file: the one in its metadata, else the first that recognises it.

    UserError for a file that no family recognises.
    """
    if (named := _named_family(path)) is not None:
        return family_of(named)
    for name in FAMILIES:
        if family_of(name).kind_of(tensors) is not None:
            return family_of(name)
    raise unknown_file(path, tensors, "; ".join(family_of(name).SOURCES for name in FAMILIES))


def _named_family(path: Path) -> str | None:
    """Return the family that a file's metadata names; None if it names none that exists."""
    try:
        model = read_metadata(path).get("model")
    except UserError:  # not a file of this project
        return None
    named = model.get("family") if isinstance(model, dict) else None
    return named if isinstance(named, str) and named in FAMILIES else None


def convert(
    path: str | Path,
    fresh: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    clip: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> Conversion:
    """Read a file of any supported kind and build its model; see `Family.convert`."""
    file = read_weight_file(path)
    family = family_of_file(Path(path), file.tensors)
    return family.convert(
        Path(path), file, fresh, drop, None if clip is None else Path(clip), overrides or {}
    )
