"""Sizes of the towers by name, from our own files or open_clip's."""

import difflib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.sections import Activation
from clip4vla.loading.tokens import CLIP_VOCABULARY

FOLDER = Path(__file__).parent / "architectures"

VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a plain CLIP: a ViT and a causal text transformer, and the activation of both.

    QuickGELU is OpenAI's activation. Tensors do not show which one they were trained with; with the
    wrong one they load, and the features are wrong.
    """

    embed_dim: int
    patch_size: int
    vision_layers: int
    vision_width: int
    vision_heads: int
    text_layers: int
    text_width: int
    text_heads: int
    context_length: int = 77
    activation: Activation = "quick_gelu"

    @property
    def grid_positions(self) -> int:
        """Return the number of positions: the class token and the patches (50 for ViT-B/32)."""
        return (IMAGE_SIZE // self.patch_size) ** 2 + 1


def known_names() -> list[str]:
    """Return every name that `resolve` looks up: ours and open_clip's."""
    return sorted(_files())


@cache
def _files() -> dict[str, Path]:
    """Return the file of every name, without importing open_clip, which takes seconds."""
    spec = importlib.util.find_spec("open_clip")
    places = [*(spec.submodule_search_locations or ())] if spec else []
    folders = [*(Path(place) / "model_configs" for place in places), FOLDER]
    return {path.stem: path for folder in folders for path in folder.glob("*.json")}


def resolve(name: str, activation: Activation = "quick_gelu") -> Architecture:
    """Return the sizes of the architecture called `name`, such as ViT-B-32 or tiny.

    A name determines the activation only if it contains quickgelu: other sizes exist with both.
    Raises UserError for an unknown name and for towers that are not a plain CLIP at 224 pixels.
    """
    config = _config_of(name)
    if config is None:
        near = difflib.get_close_matches(name, known_names(), n=3, cutoff=0.4) or ["ViT-B-32"]
        raise UserError(
            f"model.architecture: unknown name {name!r}. Fix: choose one like {', '.join(near)}"
        )
    if "quickgelu" in name and activation != "quick_gelu":
        raise UserError(
            f"model.architecture: {name} has quick_gelu, but model.activation is {activation}. "
            "Fix: correct one of them"
        )
    return _from_config(name, config, activation)


def _config_of(name: str) -> dict[str, Any] | None:
    """Return the content of the file of a name; None for an unknown name."""
    if ":" in name:  # such as hf-hub:…
        import open_clip

        return open_clip.get_model_config(name)
    file = _files().get(name)
    return None if file is None else json.loads(file.read_text(encoding="utf-8"))


def _from_config(name: str, config: dict[str, Any], activation: Activation) -> Architecture:
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    unknown = sorted((set(vision) - VISION_KEYS) | (set(text) - TEXT_KEYS))
    plain = (
        not unknown
        and isinstance(vision.get("layers"), int)
        and vision.get("image_size") == IMAGE_SIZE
        and text.get("vocab_size") == CLIP_VOCABULARY
        and vision.get("mlp_ratio", 4.0) == text.get("mlp_ratio", 4.0) == 4.0
    )
    if not plain:
        why = f"it sets {', '.join(unknown)}" if unknown else "its sizes differ"
        raise UserError(
            f"model.architecture: {name!r} is not a plain CLIP (ViT at {IMAGE_SIZE} pixels, CLIP's "
            f"own text tower): {why}. Fix: choose one like ViT-B-32, ViT-B-16 or ViT-L-14"
        )
    return Architecture(
        embed_dim=config["embed_dim"],
        patch_size=vision["patch_size"],
        vision_layers=vision["layers"],
        vision_width=vision["width"],
        vision_heads=vision["width"] // vision.get("head_width", 64),
        text_layers=text["layers"],
        text_width=text["width"],
        text_heads=text["heads"],
        context_length=text["context_length"],
        activation=activation,
    )
