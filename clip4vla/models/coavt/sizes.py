"""Sizes of CoAVT's encoders by the name of an architecture. Loads no torch.

Widths, depths and patches of `base` are CAV-MAE's and BLIP-2's (facts 1.1 to 1.4): the paper's own
are known at second hand or not at all.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from clip4vla.common.errors import UserError
from clip4vla.config.data import IMAGE_SIZE

ArchitectureName = Literal["base", "base_32", "tiny"]
DEPTH = "depth"  # of an architecture: own and shared blocks together


@dataclass(frozen=True)
class Sizes:
    """Sizes of the joint audio-visual encoder, and of the text and query encoder.

    own_layers: blocks of each modality; shared_layers: blocks that run on sound, on pictures and on
    both; patch, image: pixels of a side; bands, steps: of a log-mel; joint_width: of the vectors
    that are compared.
    """

    width: int
    heads: int
    own_layers: int
    query_width: int
    query_layers: int
    query_heads: int
    query_ffn: int
    vocabulary: int
    joint_width: int
    shared_layers: int = 1
    mlp_ratio: int = 4
    patch: int = 16
    image: int = IMAGE_SIZE
    bands: int = 128
    steps: int = 1024
    text_positions: int = 512
    queries: int = 32
    cross_every: int = 2

    @property
    def encoder_width(self) -> int:
        """Return the width of the tokens that queries attend to."""
        return self.width

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Return the rows (of mel bands) and columns (of steps) of sound patches: 8 x 64."""
        return self.bands // self.patch, self.steps // self.patch

    @property
    def image_grid(self) -> tuple[int, int]:
        """Return the rows and columns of picture patches: 14 x 14."""
        return self.image // self.patch, self.image // self.patch


BASE = {  # ViT-B/16 and BERT-base
    "width": 768,
    "heads": 12,
    DEPTH: 12,
    "query_width": 768,
    "query_layers": 12,
    "query_heads": 12,
    "query_ffn": 3072,
    "joint_width": 256,
}
ARCHITECTURES: dict[ArchitectureName, dict[str, int]] = {
    "base": BASE,
    "base_32": BASE | {"patch": 32},
    "tiny": {
        "width": 64,
        "heads": 4,
        DEPTH: 3,
        "patch": 32,
        "query_width": 64,
        "query_layers": 4,
        "query_heads": 4,
        "query_ffn": 128,
        "joint_width": 32,
        "text_positions": 77,
    },
}


def sizes_of(
    architecture: ArchitectureName, vocabulary: int, shared_layers: int = 1, **others: Any
) -> Sizes:
    """Return the sizes of an architecture, `shared_layers` of whose blocks are shared.

    vocabulary: of the tokenizer; others: fields of `Sizes` that replace the architecture's, such as
    `queries`. UserError unless each modality keeps a block of its own.
    """
    values = dict(ARCHITECTURES[architecture])
    own_layers = values.pop(DEPTH) - shared_layers
    if own_layers < 1:
        raise UserError(
            f"model.shared_layers: {shared_layers} leaves {architecture} no block for each "
            f"modality alone. Fix: set it to at most {own_layers + shared_layers - 1}"
        )
    sizes = Sizes(
        own_layers=own_layers, shared_layers=shared_layers, vocabulary=vocabulary, **values
    )
    return replace(sizes, **others)
