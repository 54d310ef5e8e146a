"""Self-contained checkpoints: one file holds the weights and all settings of a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clip4vla.config.settings import Settings
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.metadata import FORMAT, read_settings
from clip4vla.models.common.tensor_files import read_metadata, save_model
from clip4vla.models.family import family_of


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode on the CPU, with its settings and its origin.

    metadata: that of the file, with every key of `settings`; see docs/formats.md.
    """

    model: ClipModel
    settings: Settings
    metadata: dict[str, Any]


def write_checkpoint(
    path: str | Path, model: nn.Module, settings: Settings, origin: dict[str, Any]
) -> None:
    """Write a model with its settings. origin: further metadata, such as its run."""
    metadata = {**origin, **settings.model_dump(mode="json"), "format": FORMAT}
    save_model(path, model, metadata)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Rebuild the model from a file that `write_checkpoint` wrote, in training or by an import.

    UserError for any other file, and for one that is corrupt or of another version.
    """
    metadata = read_metadata(path)
    settings = read_settings(path, metadata)
    n_classes = len(settings.classes) if settings.classes else None
    family = family_of(settings.model.family)
    model = family.empty(settings.model, settings.task, n_classes, settings.inputs)
    family.load(model, Path(path), with_head=True)
    complete = {**metadata, **settings.model_dump(mode="json")}
    return Checkpoint(model.eval(), settings, complete)
