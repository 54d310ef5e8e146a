"""Floating-point operations of the model's parts, computed from their sizes without torch.

A multiplication and an addition are two operations. A training step costs three forward passes of
trained parts (forward, gradients of inputs, gradients of weights) and one of frozen parts.
"""

import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from clip4vla.common.errors import UserError, did_you_mean

OWN = Path(__file__).parents[1] / "models" / "clip4vla" / "architectures"
IMAGE, CHANNELS, VOCABULARY = 224, 3, 49411


@dataclass(frozen=True)
class Work:
    """Sizes of a model, and the operations of one forward pass of its parts."""

    width: int
    layers: int
    patch: int
    text_width: int
    text_layers: int
    dim: int

    @property
    def image(self) -> float:
        """Return the operations of a frame in the vision tower, or a segment in the audio tower."""
        patches = (IMAGE // self.patch) ** 2
        embedding = 2.0 * patches * CHANNELS * self.patch**2 * self.width
        return embedding + self.layers * block(patches + 1, self.width)

    def text(self, words: int) -> float:
        """Return the operations of a text of this many tokens, padding included."""
        return self.text_layers * block(words, self.text_width)

    def joint(self, positions: float, layers: int) -> float:
        """Return the operations of a sequence of this many positions in the joint encoder."""
        return layers * block(positions, self.dim)

    @property
    def word(self) -> float:
        """Return the operations of predicting a word of the vocabulary."""
        return 2.0 * self.dim * VOCABULARY


def block(positions: float, width: int) -> float:
    """Return the operations of a transformer block with an MLP of four times its width."""
    return 2.0 * (12.0 * positions * width**2 + 2.0 * positions**2 * width)


@lru_cache
def work_of(architecture: str) -> Work:
    """Return the work of one of our or open_clip's architectures. UserError for an unknown name."""
    folders = [OWN]
    if spec := importlib.util.find_spec("open_clip"):
        folders += [
            Path(place) / "model_configs" for place in spec.submodule_search_locations or ()
        ]
    names = [path.stem for folder in folders for path in folder.glob("*.json")]
    for folder in folders if architecture in names else ():
        path = folder / f"{architecture}.json"
        if path.is_file():
            sizes = json.loads(path.read_text(encoding="utf-8"))
            vision, text = sizes["vision_cfg"], sizes["text_cfg"]
            try:
                return Work(
                    width=vision["width"],
                    layers=vision["layers"],
                    patch=vision["patch_size"],
                    text_width=text["width"],
                    text_layers=text["layers"],
                    dim=sizes["embed_dim"],
                )
            except KeyError:
                break
    raise UserError(
        f"{architecture!r} is not a plain CLIP that open_clip or this project knows"
        + (did_you_mean(architecture, names) if architecture not in names else "; try ViT-B-32")
    )
