"""Weight files: written as safetensors, read strictly."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip4vla.errors import UserError
from clip4vla.files import canonical_json, whole_file
from clip4vla.models.architecture import CLIP_VOCABULARY, VOCABULARY
from clip4vla.models.archives import read_tensors
from clip4vla.models.clip4vla import CLIP4VLA
from clip4vla.models.importers import kind_of, to_our_names

METADATA = "clip4vla"  # one key: several would be written in an order that changes between runs
PARTS = ("text", "vision", "audio", "logit_scale", "captioner", "probe", "fusion", "gate")
TOKENS = "text.token_embedding.weight"


def save_model(path: str | Path, model: CLIP4VLA, metadata: dict[str, Any]) -> None:
    """Write every parameter once, whole or not at all; equal inputs give equal bytes.

    metadata: anything that JSON can hold; `read_metadata` gives it back.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.named_parameters()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA: canonical_json(metadata)})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a file that `save_model` wrote. UserError for any other."""
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; name the file of weights in it")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
    except (safetensors.SafetensorError, KeyError, ValueError):
        metadata = None
    if not isinstance(metadata, dict):
        raise UserError(
            f"{path}: was not written by this project: it has no metadata; "
            f"run `clip4vla checkpoint import {path} OUT`"
        )
    return metadata


def load_into(model: CLIP4VLA, path: str | Path, fresh: tuple[str, ...] = ()) -> None:
    """Fill the model from a file of ours, of OpenAI's CLIP or of the released CLIP4VLA.

    Every tensor of the model must be in the file in its shape, and every tensor of the file must
    have a place, except in the parts named in `fresh` (of `PARTS`): these take nothing from the
    file and start again from the towers just loaded (`CLIP4VLA.restart`). Half precision is widened
    exactly. Nothing is changed unless all fits; otherwise UserError says what was expected, found,
    missing, left over and misshapen.
    """
    unknown = sorted(set(fresh) - set(PARTS))
    if unknown:
        raise ValueError(f"fresh: {unknown} are not parts; choose from {PARTS}")
    _fill(model, Path(path), *_read(Path(path)), fresh)


def load_clip(model: CLIP4VLA, path: str | Path) -> None:
    """Fill text and vision from a file that holds CLIP alone; start the rest from them.

    As strict as `load_into`. A whole CLIP4VLA is refused: taking half of it would go unseen.
    """
    path = Path(path)
    kind, state = _read(path)
    if any(name.startswith("audio.") for name in state):
        raise UserError(
            f"{path}: holds a whole CLIP4VLA, not CLIP alone: give it as `start: weights:NAME`, "
            "and OpenAI's CLIP as model.weights"
        )
    _fill(model, path, kind, state, ("audio", "captioner", "fusion", "gate", "probe"))


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    state = read_tensors(path)
    kind = kind_of(path, state)
    return kind, to_our_names(path, kind, state)


def _fill(
    model: CLIP4VLA, path: Path, kind: str, state: dict[str, Tensor], fresh: tuple[str, ...]
) -> None:
    given = _without(state, fresh)
    wanted = _without(dict(model.named_parameters()), fresh)
    grows = kind == "openai" and len(given.get(TOKENS, ())) == CLIP_VOCABULARY
    _check(path, kind, wanted, given, grows)
    with torch.no_grad():
        for name, parameter in wanted.items():
            value = given[name]
            parameter[: len(value)].copy_(value) if value.ndim else parameter.copy_(value)
    for part in fresh:
        model.restart(part)


def _without(tensors: dict[str, Tensor], parts: tuple[str, ...]) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k.split(".", 1)[0] not in parts}


def _check(path: Path, kind: str, wanted: dict, given: dict, grows: bool) -> None:
    """Raise UserError unless names and shapes agree. `grows`: CLIP's rows of our vocabulary."""

    def shape(name: str) -> list[int]:
        rest = list(given[name].shape)
        return [VOCABULARY, *rest[1:]] if grows and name == TOKENS else rest

    missing = [k for k in wanted if k not in given]
    left_over = [k for k in given if k not in wanted]
    shared = [k for k in wanted if k in given]
    misshapen = [
        f"{k} {shape(k)} for {list(wanted[k].shape)}"
        for k in shared
        if shape(k) != list(wanted[k].shape)
    ]
    integers = [f"{k} is {given[k].dtype}" for k in shared if not given[k].is_floating_point()]
    if not (missing or left_over or misshapen or integers):
        return
    found = len(shared) - len(misshapen) - len(integers)
    lists = {
        "missing": missing,
        "left over": left_over,
        "misshapen": misshapen,
        "not floating point": integers,
    }
    details = "; ".join(f"{_some(names)} {what}" for what, names in lists.items() if names)
    raise UserError(
        f"{path} ({kind} names): {len(wanted)} tensors expected, {found} found: {details}; check "
        "model.architecture, model.type_token, model.joint_layers, the style of the joint encoder "
        "and what the file was trained for"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"
