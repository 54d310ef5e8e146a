"""What a tower computes, as one hash: the key of vectors that were computed with it."""

import hashlib
from dataclasses import asdict
from typing import Literal

from clip4vla.common.files import canonical_json
from clip4vla.models.clip4vla.model import CLIP4VLA


def tower_hash(model: CLIP4VLA, part: Literal["text", "vision", "audio"]) -> str:
    """sha256 of what a tower computes: its tensors, and what these do not tell.

    That is the number of heads, the activation and, of audio, how the type token is used. The same
    for the same weights, wherever they came from.
    """
    tower = getattr(model, part)
    said = asdict(model.sizes) | {"part": part, "type_token": getattr(tower, "type_token", None)}
    digest = hashlib.sha256((canonical_json(said) + "\n").encode())
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
