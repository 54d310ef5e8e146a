"""Towers with float16 weights, as the released code trains them: to study it (facts 6.6)."""

import torch
from open_clip.transformer import LayerNorm, LayerNormFp32

from clip4vla.models.clip4vla.model import CLIP4VLA


def use_fp16_weights(model: CLIP4VLA) -> None:
    """Convert the towers' weights to float16 in place, as CLIP's `convert_weights` (facts 12.2).

    This concerns the weights and biases of convolutions, linear layers and attention, and the last
    projections, of the text, vision and audio tower. Embeddings, positions, type tokens, LayerNorms
    and heads stay in float32. The towers then compute in float16, their LayerNorms in float32, and
    return float32.
    """
    from open_clip.model import convert_weights_to_lp  # it loads timm, which no other run needs

    for tower in (model.text, model.vision, model.audio):
        convert_weights_to_lp(tower, torch.float16)
        for module in tower.modules():
            if isinstance(
                module, LayerNorm
            ):  # the same tensors, computed in float32 (also on CUDA)
                module.__class__ = LayerNormFp32
    model.half_weights = True
