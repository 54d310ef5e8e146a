"""The model that a run starts from: CLIP itself, or a checkpoint."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.families import FamilyModel
from clip4vla.config.sections import Inputs, TaskName
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.models.family import ClipModel, family_of


def starting_model(
    config: FamilyModel,
    inputs: Inputs,
    start: Path | None,
    weights: dict[str, Path],
    task: TaskName | None = None,
    n_classes: int | None = None,
    seed: int = 0,
    trained_head: bool = False,
) -> ClipModel:
    """Build a model and fill its towers from `start`, or from CLIP where that is None.

    `task`: what it gets a head for; None: the towers alone. `trained_head`: the head comes from
    `start` too (evaluation); otherwise it starts anew, and a head that the file holds is left.
    Equal arguments give equal weights.
    """
    family = family_of(config.family)
    if start is not None:
        config = config.model_copy(update={"weights": None})  # CLIP's own file is not needed
    model = family.build(config, weights, task, n_classes, seed, inputs)
    if start is not None:
        family.load(model, start, with_head=trained_head)
    return model


def start_hash(start: Path | None) -> str | None:
    """sha256 of the start weights; None for CLIP itself. UserError when the file is missing."""
    if start is None:
        return None
    if not Path(start).is_file():
        raise UserError(f"{start}: no such weights to start from")
    return sha256_of_file(start)


def start_metadata(start: Path | None) -> dict[str, Any]:
    """What our own file says of its training; nothing for CLIP itself and foreign files."""
    try:
        return {} if start is None else read_metadata(start)
    except UserError:
        return {}
