"""Parts of a model: the first level of its parameters' names, such as `text` or `vision`."""

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from clip4vla.common.files import canonical_json


def learning_parts(model: nn.Module) -> set[str]:
    """Return the parts (text, vision, audio, ...) in which a parameter learns."""
    return {name.split(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad}


def freezes_clip(model: nn.Module, modalities: Iterable[str]) -> bool:
    """Return whether the towers of frames and words are frozen, so that vectors can be cached."""
    return "vision" in modalities and learning_parts(model).isdisjoint({"text", "vision"})


def part_hash(part: nn.Module, settings: dict[str, Any]) -> str:
    """Return the sha256 of a part's tensors and of its settings, which no tensor shows.

    Equal weights have equal hashes, whatever their origin.
    """
    digest = hashlib.sha256((canonical_json(settings) + "\n").encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
