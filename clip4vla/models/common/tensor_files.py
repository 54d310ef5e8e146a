"""Atomic writing of weight files, and their metadata."""

import json
import os
import re
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json, whole_file
from clip4vla.models.common.forms import SAFETENSORS, form_of

Tensors = dict[str, Tensor]  # by name
METADATA = "clip4vla"  # one key, because the order of several would differ between runs


def tensors_of(model: nn.Module) -> Tensors:
    """Return what a file of a model contains: every parameter once, and persistent buffers."""
    saved = model.state_dict().keys()  # without other buffers
    buffers = {name: x for name, x in model.named_buffers() if name in saved}
    return {name: x.detach() for name, x in model.named_parameters()} | buffers


def save_model(path: str | Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write `tensors_of` a model, atomically; equal inputs give equal bytes.

    metadata: any JSON object; `read_metadata` returns it.
    """
    save_tensors(path, tensors_of(model), {METADATA: canonical_json(metadata)})


def save_tensors(
    path: str | Path, tensors: Tensors, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically. OSError if the disk fails."""
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(on_cpu, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def save_torch(path: str | Path, content: dict[str, Any]) -> None:
    """Write an object with torch.save, atomically. OSError if the disk fails."""
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch's, from closing its archive after the disk's error
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a file that `save_model` wrote. UserError for any other file."""
    form, metadata = form_of(path), None
    if form == SAFETENSORS:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})[METADATA])
        except (safetensors.SafetensorError, KeyError, ValueError, RecursionError):
            pass
    if not isinstance(metadata, dict):
        raise UserError(
            f"{path}: not written by this project, since it has no metadata. Fix: run "
            f"`clip4vla checkpoint import {path} OUT.safetensors`"
        )
    return metadata
