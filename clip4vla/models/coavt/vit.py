"""A plain ViT of pictures as initial weights of the joint audio-visual encoder (facts 1.3, 8.1)."""

import re

from torch import Tensor
from torch.nn.functional import interpolate

from clip4vla.models.coavt.blocks import STREAMS
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.coavt.translation import Translation
from clip4vla.models.common.tensor_files import Tensors

BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
NORM_OF_BLOCK = re.compile(r"(norm[12])\.(.+)")
MODALITY = ("audio.modality", "vision.modality")  # no ViT has them

# Vision MAE (and timm's ViT) -> our names of a stack.
MAE_NAMES = {"patch_embed.proj.": "patches.", "pos_embed": "positions"}
MAE_UNUSED = re.compile(r"cls_token$|mask_token$|decoder_")
# CLIP's visual tower -> our names of a stack.
CLIP_NAMES = {
    "visual.conv1.": "patches.",
    "visual.positional_embedding": "positions",
    "visual.ln_pre.": "input_norm.",
    "visual.ln_post.": "norm.",
    "visual.transformer.resblocks.": "blocks.",
}
CLIP_BLOCK = {
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
CLIP_UNUSED = re.compile(  # the class token, the projection and the text tower
    r"visual\.class_embedding$|visual\.proj$|text\.|transformer\.|token_embedding\.|ln_final\.|"
    r"positional_embedding$|text_projection$|logit_(scale|bias)$|"
    r"(input_resolution|context_length|vocab_size)$"
)


def is_vision_mae(state: Tensors) -> bool:
    """Return whether tensors have the names of a vision MAE."""
    return {"patch_embed.proj.weight", "cls_token", "blocks.0.attn.qkv.weight"} <= state.keys()


def is_clip(state: Tensors) -> bool:
    """Return whether tensors have the names of a CLIP with a ViT."""
    return {"visual.conv1.weight", "visual.class_embedding"} <= state.keys()


def translate_mae(state: Tensors, sizes: Sizes) -> Translation:
    """Return the tensors of a vision MAE under our names; sound keeps its sin-cos positions."""
    unused = tuple(name for name in state if MAE_UNUSED.match(name))
    vit = {_renamed(k, MAE_NAMES): v for k, v in state.items() if k not in unused}
    if "positions" in vit:
        vit["positions"] = vit["positions"].flatten(0, -2)[1:]  # [1, 1 + n, W], the class first
    return Translation(_spread(vit, sizes), unused, fresh=("audio.positions", *MODALITY))


def translate_clip(state: Tensors, sizes: Sizes) -> Translation:
    """Return the tensors of CLIP's visual tower under our names.

    Sound has the positions of pictures, resized to its grid. CLIP's patches have no bias: ours keep
    their initial zeros.
    """
    unused = tuple(name for name in state if CLIP_UNUSED.match(name))
    vit = {_clip_name(k): v for k, v in state.items() if k not in unused}
    tensors = {}
    if "positions" in vit:
        vit["positions"] = vit["positions"][1:]  # the class first
        tensors["audio.positions"] = _resized(vit["positions"].float(), sizes)
    fresh = ("audio.patches.bias", "vision.patches.bias", *MODALITY)
    return Translation(_spread(vit, sizes) | tensors, unused, fresh)


def _spread(vit: Tensors, sizes: Sizes) -> Tensors:
    """Return the tensors of the encoder that a ViT, under our names of a stack, provides.

    Its first blocks go into both stacks, the others into the shared blocks, where each stream has
    their norms. Sound has one channel: its patches have the sum of the weights over RGB.
    """
    found: Tensors = {}
    for name, value in vit.items():
        block = BLOCK.fullmatch(name)
        if block and int(block[1]) >= sizes.own_layers:
            found |= _in_shared(f"blocks.{int(block[1]) - sizes.own_layers}.", block[2], value)
        elif name.startswith("norm."):
            found |= {f"shared.norm.{stream}.{name[5:]}": value for stream in STREAMS}
        elif name == "patches.weight":
            found["audio.patches.weight"] = value.float().sum(dim=1, keepdim=True)
            found["vision.patches.weight"] = value
        elif name == "positions":
            found["vision.positions"] = value
        elif block or name.startswith(("patches.", "input_norm.")):
            found |= {f"{part}.{name}": value for part in ("audio", "vision")}
        else:
            found[name] = value
    return found


def _in_shared(block: str, name: str, value: Tensor) -> Tensors:
    norm = NORM_OF_BLOCK.fullmatch(name)
    if norm is None:
        return {f"shared.{block}{name}": value}
    return {f"shared.{block}{norm[1]}.{stream}.{norm[2]}": value for stream in STREAMS}


def _resized(positions: Tensor, sizes: Sizes) -> Tensor:
    """Return positions of pictures [n, W] resized bilinearly to the grid of sound."""
    rows, columns = sizes.image_grid
    if len(positions) != rows * columns:
        return positions  # of another grid, which loading refuses
    grid = positions.unflatten(0, (rows, columns)).permute(2, 0, 1)[None]  # [1, W, rows, columns]
    resized = interpolate(grid, sizes.audio_grid, mode="bilinear", align_corners=False)
    return resized[0].flatten(1).T.contiguous()


def _clip_name(name: str) -> str:
    name = _renamed(name, CLIP_NAMES)
    for theirs, ours in CLIP_BLOCK.items():
        name = name.replace(theirs, ours)
    return name


def _renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
