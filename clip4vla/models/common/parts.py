"""Parts of a model: the first level of its parameters' names, such as `text` or `vision`."""

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.common.files import canonical_json
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.tensor_files import Tensors


def parts_of(model: nn.Module) -> set[str]:
    """Return the parts (text, vision, audio, ...) that have parameters."""
    return {name.split(".", 1)[0] for name, _ in model.named_parameters()}


def learning_parts(model: nn.Module) -> set[str]:
    """Return the parts in which a parameter learns."""
    return {name.split(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad}


def freezes_text_and_vision(model: ClipModel, modalities: Iterable[str]) -> bool:
    """Return whether vectors of frames and words can be cached.

    Both parts exist, are frozen, and depend on no other.
    """
    frozen = parts_of(model) - learning_parts(model)
    return model.apart and "vision" in modalities and {"text", "vision"} <= frozen


def freeze_prefixes(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Freeze the parameters whose names begin with these. UserError for one that none does."""
    named = dict(model.named_parameters())
    for prefix in prefixes:
        matches = [name for name in named if name.startswith(prefix)]
        if not matches:
            parts = ", ".join(dict.fromkeys(name.split(".", 1)[0] for name in named))
            raise UserError(
                f"freeze.prefixes: no parameter begins with {prefix!r}. Fix: begin with one of "
                f"{parts}"
            )
        for name in matches:
            named[name].requires_grad_(False)


def without_parts(tensors: Tensors, parts: tuple[str, ...]) -> Tensors:
    """Return the tensors of all other parts."""
    return {name: value for name, value in tensors.items() if not is_in_parts(name, parts)}


def is_in_parts(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether a tensor is in one of the parts, such as `fusion` or `fusion.similarity`."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def part_hash(part: nn.Module, settings: dict[str, Any]) -> str:
    """Return the sha256 of a part's tensors and of its settings, which no tensor shows.

    Equal weights have equal hashes, whatever their origin.
    """
    digest = hashlib.sha256((canonical_json(settings) + "\n").encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
