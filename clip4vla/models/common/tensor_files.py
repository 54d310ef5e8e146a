"""Files of tensors: written whole or not at all."""

import os
import re
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip4vla.common.files import whole_file


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
