"""Strict loading of our own files into a CoAVT, and the kinds of files that are recognised."""

from pathlib import Path
from typing import Any

import torch

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.cav_mae import is_cav_mae, translate
from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.settings import Model
from clip4vla.models.common.archives import read_tensors, unknown_file
from clip4vla.models.common.coverage import Coverage, compare
from clip4vla.models.common.parts import without_parts
from clip4vla.models.common.tensor_files import Tensors, read_metadata, tensors_of

SOURCES = "CAV-MAE, or a CoAVT of this project"
UNSEEN = ("activation", "image_stats", "tokenizer")  # of training, and no tensor shows them


def kind_of(state: Tensors) -> str | None:
    """Return the code that wrote a file, by the names of its tensors; None: unknown."""
    if {"shared.norm.av.weight", "query.queries"} <= state.keys():
        return "ours"
    return "cav_mae" if is_cav_mae(state) else None


def to_our_names(path: Path, kind: str, state: Tensors) -> Tensors:
    """Return tensors under the names of our model; unknown names stay unchanged."""
    return translate(state).tensors if kind == "cav_mae" else state


def to_released_names(state: Tensors) -> Tensors:
    """Raise UserError: no code of CoAVT was released."""
    raise UserError(
        "--names released: no code of CoAVT was released. Fix: export with --names ours"
    )


def load_into(model: CoAVT, path: Path, fresh: tuple[str, ...]) -> None:
    """Load a file of ours, which must have exactly the tensors of the model in their shapes.

    fresh: parts that keep their weights, and are not loaded. If anything does not fit, the model
    stays unchanged, and UserError lists the tensors that are missing, left over, misshapen and not
    finite.
    """
    state = read_tensors(path)
    kind = kind_of(state)
    if kind is None:
        raise unknown_file(path, state, SOURCES)
    if kind != "ours":
        raise UserError(
            f"{path}: has the audio-visual encoder alone. Fix: name it in model.weights, or run "
            f"`clip4vla checkpoint import {path} OUT.safetensors`"
        )
    _check_settings(model.config, path)
    coverage = coverage_of(model, state, fresh)
    if not coverage.complete:
        raise UserError(
            f"{path}: {coverage.summary()}. Fix: compare the keys of `model` and "
            "inputs.segment_steps with the file: run `clip4vla checkpoint inspect "
            f"{path}`"
        )
    copy_tensors(model, state, fresh)


def coverage_of(model: CoAVT, state: Tensors, fresh: tuple[str, ...]) -> Coverage:
    """Compare tensors under our names with the parameters of all parts but the `fresh` ones."""
    parameters = without_parts(tensors_of(model), fresh)
    return compare(parameters, without_parts(state, fresh), first_rows={})


@torch.no_grad()
def copy_tensors(model: CoAVT, state: Tensors, fresh: tuple[str, ...]) -> None:
    """Copy tensors whose coverage is complete into the model."""
    for name, tensor in without_parts(tensors_of(model), fresh).items():
        tensor.copy_(state[name])


def _check_settings(config: Model, path: Path) -> None:
    """Raise UserError for a setting in which the file was trained otherwise."""
    try:
        before: Any = read_metadata(path).get("model")
    except UserError:  # a file without our metadata
        return
    for name in UNSEEN if isinstance(before, dict) else ():
        ours, theirs = getattr(config, name), before.get(name)
        if theirs not in (None, ours):
            raise UserError(
                f"{path}: was trained with model.{name}: {theirs}, but the run has {ours}. Fix: "
                f"set model.{name}: {theirs}"
            )
