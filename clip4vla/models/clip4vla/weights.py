"""Strict loading of weight files into a model."""

from pathlib import Path
from typing import Any

import torch

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.loading.tokens import CLIP_VOCABULARY
from clip4vla.models.clip4vla.importers import CLIP_KINDS, SOURCES, kind_of, to_our_names
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import HEAD_PARTS, Model
from clip4vla.models.clip4vla.type_tokens import can_follow
from clip4vla.models.common.archives import read_tensors, unknown_file
from clip4vla.models.common.coverage import Coverage, compare
from clip4vla.models.common.parts import without_parts
from clip4vla.models.common.tensor_files import Tensors, read_metadata

PARTS = Model.PARTS
TOKENS = "text.token_embedding.weight"


def load_into(model: CLIP4VLA, path: str | Path, fresh: tuple[str, ...] = ()) -> None:
    """Load a file of this project, of OpenAI's CLIP or of the released CLIP4VLA into the model.

    The file must have exactly the tensors of the model in their shapes, except in the parts named
    in `fresh` (of `PARTS`): these are not loaded but copied from the loaded towers
    (`CLIP4VLA.copy_from_clip`). Half precision is widened exactly. If anything does not fit, the
    model stays unchanged, and UserError lists the tensors that are missing, left over, misshapen
    and not finite. ValueError for a name in `fresh` that is not a part.
    """
    unknown = sorted(set(fresh) - set(PARTS))
    if unknown:
        raise ValueError(f"fresh: {unknown} are not parts. Fix: choose from {PARTS}")
    path = Path(path)
    kind, state = read_named(path)
    if kind == "ours":
        section = _model_section(path)
        _check_activation(model, section, path)
        if "audio" not in fresh:
            _check_type_token(model, section, path)
    _check_and_copy(model, path, kind, state, fresh)


def load_clip(model: CLIP4VLA, path: str | Path) -> None:
    """Load text and vision from a file of CLIP alone; copy the other parts from them.

    As strict as `load_into`. UserError for a complete CLIP4VLA, too: half of it would silently be
    ignored.
    """
    path = Path(path)
    kind, state = read_named(path)
    if any(name.startswith("audio.") for name in state):
        raise UserError(
            f"{path}: is a complete CLIP4VLA, not CLIP alone. Fix: name it under `weights` and "
            "set `pretrain: {from: NAME}`; keep OpenAI's CLIP as model.weights"
        )
    _check_and_copy(model, path, kind, state, ("audio", *HEAD_PARTS.values()))


def read_named(path: Path) -> tuple[str, Tensors]:
    """Return the kind of a file, and its tensors under the names of our model."""
    state = read_tensors(path)
    kind = kind_of(state)
    if kind is None:
        raise unknown_file(path, state, SOURCES)
    return kind, to_our_names(path, kind, state)


def coverage_of(model: CLIP4VLA, state: Tensors, fresh: tuple[str, ...], kind: str) -> Coverage:
    """Compare tensors under our names with the parameters of all parts but the `fresh` ones."""
    parameters = without_parts(dict(model.named_parameters()), fresh)
    first_rows = {TOKENS: CLIP_VOCABULARY} if kind in CLIP_KINDS else {}
    return compare(parameters, without_parts(state, fresh), first_rows)


@torch.no_grad()
def copy_tensors(model: CLIP4VLA, state: Tensors, fresh: tuple[str, ...]) -> None:
    """Copy tensors whose coverage is complete into the model, then its towers to `fresh` parts."""
    for name, parameter in without_parts(dict(model.named_parameters()), fresh).items():
        value = state[name]
        parameter[: len(value)].copy_(value) if value.ndim else parameter.copy_(value)
    for part in fresh:
        model.copy_from_clip(part)


def _check_and_copy(
    model: CLIP4VLA, path: Path, kind: str, state: Tensors, fresh: tuple[str, ...]
) -> None:
    coverage = coverage_of(model, state, fresh, kind)
    if not coverage.complete:
        raise UserError(
            f"{path} ({kind} names): {coverage.summary()}. Fix: compare model.architecture, "
            "model.type_token, model.joint_layers, the style of the joint encoder and the task "
            f"with the file: run `clip4vla checkpoint inspect {path}`"
        )
    copy_tensors(model, state, fresh)


def _model_section(path: Path) -> dict[str, Any]:
    """Return the `model` section of a file's metadata; {} for a file without our metadata."""
    try:
        section = read_metadata(path).get("model")
    except UserError:
        return {}
    return section if isinstance(section, dict) else {}


def _check_activation(model: CLIP4VLA, section: dict[str, Any], path: Path) -> None:
    """Raise UserError if the file was trained with another activation, which no tensor shows."""
    activation = section.get("activation")
    if activation not in (None, model.sizes.activation):
        raise UserError(
            f"{path}: was trained with model.activation: {activation}, but the run has "
            f"{model.sizes.activation}. Fix: set model.activation: {activation}"
        )


def _check_type_token(model: CLIP4VLA, section: dict[str, Any], path: Path) -> None:
    """Raise UserError if the type token of the file cannot precede the model's.

    `single` and `both` have the same tensors, so a change from one to the other is logged: nothing
    else would show it.
    """
    before, after = section.get("type_token"), model.audio.type_token
    if before in (None, after):
        return
    if not can_follow(before, after):
        raise UserError(
            f"{path}: was trained with type_token: {before}, but the run has {after}. "
            f"Fix: set model.type_token: {before}"
        )
    log.info(
        f"{path}: trained with one type token for each clip ({before}); from now on every clip has "
        "[VB] and [NB], and both use the position of the one token"
    )
