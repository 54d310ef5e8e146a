"""Random initial weights of the joint audio-visual encoder, as in CAV-MAE (facts 8.1)."""

import torch
from torch import nn

from clip4vla.models.coavt.encoder import SharedBlocks, Stack
from clip4vla.models.common.images import PatchProjection
from clip4vla.models.common.initialise import LINEAR_STD, generator_for


@torch.no_grad()
def initialise_encoder(parts: dict[str, Stack | SharedBlocks], seed: int) -> None:
    """Draw the weights of parts, each from a generator of its own.

    parts: by name. Maps are Xavier uniform with zero biases, modality vectors N(0, 0.02). Norms and
    positions keep the values that they were built with.
    """
    for name, part in parts.items():
        generator = generator_for(seed, name)
        for module in part.modules():
            if isinstance(module, (nn.Linear, PatchProjection)):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(part, Stack):
            part.modality.normal_(std=LINEAR_STD, generator=generator)
