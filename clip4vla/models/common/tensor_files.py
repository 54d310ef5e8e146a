"""Files of weights: written whole or not at all, and their metadata."""

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

METADATA = "clip4vla"  # one key: several would be written in an order that changes between runs


def save_model(path: str | Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write every parameter once, whole or not at all; equal inputs give equal bytes.

    metadata: anything that JSON can hold; `read_metadata` gives it back.
    """
    tensors = {k: v.detach() for k, v in model.named_parameters()}
    save_tensors(path, tensors, {METADATA: canonical_json(metadata)})


def save_tensors(
    path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, whole or not at all. A disk that fails is an OSError."""
    there = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(there, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def save_torch(path: str | Path, content: dict[str, Any]) -> None:
    """Write what torch saves, whole or not at all. A disk that fails is an OSError."""
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # of closing its archive, on top of the disk's own
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a file that `save_model` wrote. UserError for any other."""
    form, metadata = form_of(path), None
    if form == SAFETENSORS:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})[METADATA])
        except (safetensors.SafetensorError, KeyError, ValueError, RecursionError):
            pass
    if not isinstance(metadata, dict):
        raise UserError(
            f"{path}: was not written by this project: it has no metadata; "
            f"run `clip4vla checkpoint import {path} OUT.safetensors`"
        )
    return metadata
