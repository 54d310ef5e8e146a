"""The initial weights of a run: those of CLIP itself, or a checkpoint."""

from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.families import FamilyModel
from clip4vla.config.sections import Inputs, TaskName
from clip4vla.models.common.metadata import check_origin
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.models.family import ClipModel, family_of


def initial_model(
    config: FamilyModel,
    inputs: Inputs,
    initial_weights: Path | None,
    weights: dict[str, Path],
    task: TaskName | None = None,
    n_classes: int | None = None,
    seed: int = 0,
    trained_head: bool = False,
) -> ClipModel:
    """Build a model and load its towers from `initial_weights`, or from CLIP where that is None.

    `task`: the task whose head is added; None: towers only. `trained_head`: load the head from
    `initial_weights`, too (evaluation); otherwise it is initialised, and a head in the file is
    ignored. Equal arguments give equal weights.
    """
    family = family_of(config.family)
    if initial_weights is not None:
        config = config.without_first_weights()
    model = family.build(config, weights, task, n_classes, seed, inputs)
    if initial_weights is not None:
        family.load(model, initial_weights, with_head=trained_head)
    return model


def initial_weights_hash(initial_weights: Path | None) -> str | None:
    """Return the sha256 of the initial weights; None for CLIP itself.

    UserError when the file is missing.
    """
    if initial_weights is None:
        return None
    if not Path(initial_weights).is_file():
        raise UserError(
            f"{initial_weights}: missing, and a run starts from these weights. Fix: run the stage "
            "that writes them, or correct the path"
        )
    return sha256_of_file(initial_weights)


def initial_weights_metadata(initial_weights: Path | None) -> dict[str, Any]:
    """Return the metadata of initial weights; {} for CLIP itself and foreign files.

    UserError for an origin of the wrong form.
    """
    if initial_weights is None:
        return {}
    try:
        metadata = read_metadata(initial_weights)
    except UserError:
        return {}
    check_origin(initial_weights, metadata)
    return metadata
