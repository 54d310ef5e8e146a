"""The checkpoint of an index: opened by its file, or by a name of open_clip."""

from dataclasses import dataclass
from pathlib import Path

import torch

from clip4vla.checkpoints.hub import is_address
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.search.embedder import BATCH, Embedder, load


@dataclass(frozen=True)
class Opened:
    """An embedder, and the file that it was read from."""

    embedder: Embedder
    source: str  # as a user names it
    sha256: str


def open_checkpoint(
    source: str, device: str | torch.device | None = None, batch_size: int = BATCH
) -> Opened:
    """Return the embedder of a checkpoint. UserError for what cannot be opened."""
    if not is_address(source) and not Path(source).is_file():
        raise UserError(f"{source}: no such file. Fix: name a checkpoint, a model.safetensors")
    embedder = load(source, device, batch_size)
    found = embedder.source
    assert found is not None, "set by `load`"
    return Opened(embedder, found.hub or str(found.path.resolve()), sha256_of_file(found.path))
