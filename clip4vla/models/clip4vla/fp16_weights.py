"""Half weights, as the released code trains its towers: for a study of that effect (facts 6.6)."""

import torch
from open_clip.transformer import LayerNorm, LayerNormFp32

from clip4vla.models.clip4vla.model import CLIP4VLA


def halve(model: CLIP4VLA) -> None:
    """Make the towers' weights float16 in place (facts 12.2), as CLIP's own `convert_weights` does.

    Weights and biases of convolutions, linear layers and attention, and the last projections, of
    the text, vision and audio tower; embeddings, positions, type tokens and LayerNorms stay in
    float32, and so does all that stands on the towers. From then on the towers compute in float16,
    LayerNorms in float32, and hand float32 on.
    """
    from open_clip.model import convert_weights_to_lp  # it loads timm, which no other run needs

    for tower in (model.text, model.vision, model.audio):
        convert_weights_to_lp(tower, torch.float16)
        for module in tower.modules():
            if isinstance(module, LayerNorm):  # the same tensors, read as float32 (also on CUDA)
                module.__class__ = LayerNormFp32
    model.half_weights = True
