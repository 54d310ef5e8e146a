"""Weight files: written as safetensors, read strictly."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip4vla.common.errors import UserError
from clip4vla.models.clip4vla.architecture import CLIP_VOCABULARY
from clip4vla.models.clip4vla.importers import CLIP_KINDS, SOURCES, kind_of, to_our_names
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.type_tokens import can_follow
from clip4vla.models.common.archives import read_tensors, unknown_file
from clip4vla.models.common.coverage import Coverage, compare
from clip4vla.models.common.tensor_files import read_metadata

PARTS = Model.PARTS
TOKENS = "text.token_embedding.weight"


def load_into(model: CLIP4VLA, path: str | Path, fresh: tuple[str, ...] = ()) -> None:
    """Fill the model from a file of ours, of OpenAI's CLIP or of the released CLIP4VLA.

    Every tensor of the model must be in the file in its shape, and every tensor of the file must
    have a place, except in the parts named in `fresh` (of `PARTS`): these take nothing from the
    file and start again from the towers just loaded (`CLIP4VLA.restart`). Half precision is widened
    exactly. Nothing is changed unless all fits; otherwise UserError says what was expected, found,
    missing, left over, misshapen and not finite. ValueError for a name in `fresh` that is no part.
    """
    unknown = sorted(set(fresh) - set(PARTS))
    if unknown:
        raise ValueError(f"fresh: {unknown} are not parts; choose from {PARTS}")
    path = Path(path)
    kind, state = read_named(path)
    if kind == "ours":
        section = _model_section(path)
        _check_activation(model, section, path)
        if "audio" not in fresh:
            _check_type_token(model, section, path)
    _fill(model, path, kind, state, fresh)


def load_clip(model: CLIP4VLA, path: str | Path) -> None:
    """Fill text and vision from a file that holds CLIP alone; start the rest from them.

    As strict as `load_into`. A whole CLIP4VLA is refused: taking half of it would go unseen.
    UserError for both.
    """
    path = Path(path)
    kind, state = read_named(path)
    if any(name.startswith("audio.") for name in state):
        raise UserError(
            f"{path}: holds a whole CLIP4VLA, not CLIP alone: give it as `start: weights:NAME`, "
            "and OpenAI's CLIP as model.weights"
        )
    _fill(model, path, kind, state, ("audio", "captioner", "fusion", "gate", "probe"))


def read_named(path: Path) -> tuple[str, dict[str, Tensor]]:
    """What wrote a file, and its tensors under the names of our model."""
    state = read_tensors(path)
    kind = kind_of(state)
    if kind is None:
        raise unknown_file(path, state, SOURCES)
    return kind, to_our_names(path, kind, state)


def coverage_of(
    model: CLIP4VLA, given: dict[str, Tensor], fresh: tuple[str, ...], kind: str
) -> Coverage:
    """Hold tensors under our names against all of the model but its `fresh` parts."""
    wanted = without(dict(model.named_parameters()), fresh)
    first_rows = {TOKENS: CLIP_VOCABULARY} if kind in CLIP_KINDS else {}
    return compare(wanted, without(given, fresh), first_rows)


@torch.no_grad()
def fill(model: CLIP4VLA, given: dict[str, Tensor], fresh: tuple[str, ...]) -> None:
    """Copy tensors whose coverage is complete into the model; start the `fresh` parts again."""
    for name, parameter in without(dict(model.named_parameters()), fresh).items():
        value = given[name]
        parameter[: len(value)].copy_(value) if value.ndim else parameter.copy_(value)
    for part in fresh:
        model.restart(part)


def without(tensors: dict[str, Tensor], parts: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of the other parts."""
    return {name: value for name, value in tensors.items() if not below(name, parts)}


def below(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to one of the parts, such as `fusion` or `fusion.similarity`."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _fill(
    model: CLIP4VLA, path: Path, kind: str, state: dict[str, Tensor], fresh: tuple[str, ...]
) -> None:
    coverage = coverage_of(model, state, fresh, kind)
    if not coverage.complete:
        raise UserError(
            f"{path} ({kind} names): {coverage.summary()}; check model.architecture, "
            "model.type_token, model.joint_layers, the style of the joint encoder and what the "
            f"file was trained for: `clip4vla checkpoint inspect {path}` shows what it holds"
        )
    fill(model, state, fresh)


def _model_section(path: Path) -> dict[str, Any]:
    """Return the `model` section in a file's metadata; {} where only the names are ours."""
    try:
        section = read_metadata(path).get("model")
    except UserError:
        return {}
    return section if isinstance(section, dict) else {}


def _check_activation(model: CLIP4VLA, section: dict[str, Any], path: Path) -> None:
    """Refuse one of our files whose metadata names another activation: no tensor would tell."""
    found = section.get("activation")
    if found not in (None, model.sizes.activation):
        raise UserError(
            f"{path}: was trained with model.activation: {found}, and the run says "
            f"{model.sizes.activation}: correct model.activation"
        )


def _check_type_token(model: CLIP4VLA, section: dict[str, Any], path: Path) -> None:
    """Refuse type tokens that the model's cannot follow: [VB] and [NB] mixed or both look alike.

    The step from one token to both is reported, because nothing else would show it.
    """
    before, after = section.get("type_token"), model.audio.type_token
    if before in (None, after):
        return
    if not can_follow(before, after):
        raise UserError(
            f"{path}: was trained with type_token: {before}, and the run has {after}. "
            f"Fix: set model.type_token: {before}"
        )
    print(
        f"{path}: trained with one type token for each clip ({before}); from here on every clip "
        "carries [VB] and [NB], and the position of the one token serves both",
        file=sys.stderr,
        flush=True,
    )
