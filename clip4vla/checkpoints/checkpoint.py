"""Files that need nothing beside them: from a path to a model that is ready to use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.config.settings import Settings
from clip4vla.models.clip4vla.build import empty_model
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common.tensor_files import read_metadata, save_model

FORMAT = 1  # of the metadata; raised when an older reader would misunderstand it


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode on the CPU, what it was built with, and where it comes from.

    metadata: all that the file says, `settings` included; see docs/formats.md.
    """

    model: CLIP4VLA
    settings: Settings
    metadata: dict[str, Any]


def write_checkpoint(
    path: str | Path, model: nn.Module, settings: Settings, origin: dict[str, Any]
) -> None:
    """Write the model and all that rebuilds it. origin: what else is known, such as its run."""
    metadata = {**origin, **settings.model_dump(mode="json"), "format": FORMAT}
    save_model(path, model, metadata)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Rebuild the model of a file that `write_checkpoint` wrote, in training or by an import.

    UserError for any other file, and for one that is damaged or of another version.
    """
    metadata = read_metadata(path)
    settings = read_settings(path, metadata)
    n_classes = len(settings.classes) if settings.classes else None
    model = empty_model(settings.model, settings.head, n_classes, settings.inputs)
    load_into(model, path)
    return Checkpoint(model.eval(), settings, metadata)


def read_settings(path: str | Path, metadata: dict[str, Any]) -> Settings:
    """The settings in a file's metadata; UserError, with the remedy, where there are none."""
    if "format" not in metadata:
        raise UserError(
            f"{path}: written by an older version, which did not say how to rebuild it: run "
            f"`clip4vla checkpoint import {path} OUT.safetensors`"
        )
    if metadata["format"] != FORMAT:
        raise UserError(
            f"{path}: its metadata is of format {metadata['format']}, and this version reads "
            f"{FORMAT}: install the version of clip4vla that wrote it"
        )
    try:
        return Settings.model_validate(
            {name: metadata[name] for name in Settings.model_fields if name in metadata}
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: its metadata has {key}: {first['msg']}: install the version of clip4vla "
            "that wrote it"
        ) from None
