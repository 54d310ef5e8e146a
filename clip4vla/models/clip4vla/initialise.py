"""Random initialisation, each part from its own seeded generator: equal seeds, equal weights."""

from typing import Literal

import torch
from torch import nn

from clip4vla.loading.tokens import CLIP_VOCABULARY
from clip4vla.models.clip4vla.caption import CaptionGenerator
from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.gate import Gate
from clip4vla.models.clip4vla.joint import JointEncoder
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.towers import AudioTower
from clip4vla.models.common.initialise import LINEAR_STD, generator_for


@torch.no_grad()
def initialise_text(model: CLIP4VLA, seed: int) -> None:
    """Initialise the three new rows of the vocabulary (mask, unk, pad) at the size of CLIP's rows.

    The released code draws them from N(0, 1), 50 times larger; as output classes of captioning
    they would then win at first (facts 4.2).
    """
    rows = model.text.token_embedding.weight[CLIP_VOCABULARY:]
    rows.normal_(std=LINEAR_STD, generator=generator_for(seed, "vocabulary"))


@torch.no_grad()
def initialise_audio(
    audio: AudioTower, extra_position: Literal["scaled", "released"], seed: int
) -> None:
    """Initialise the audio tower randomly (facts 3.3): "Scratch" in Table 5 of the paper.

    The type token's embeddings have standard deviation width^-0.5. So has its position, unless
    `extra_position` is released: then it is N(0, 1), 28 times larger for ViT-B/32.
    """
    generator = generator_for(seed, "audio")
    std = audio.positional_embedding.shape[1] ** -0.5
    for tensor in (audio.class_embedding, audio.positional_embedding, audio.proj):
        tensor.normal_(std=std, generator=generator)
    nn.init.kaiming_uniform_(audio.conv1.weight, a=5**0.5, generator=generator)  # torch's own
    _initialise_layers(audio.transformer, generator)
    if audio.type_token != "none":
        generator = generator_for(seed, "type token")
        position_std = std if extra_position == "scaled" else 1.0
        audio.positional_embedding[-1].normal_(std=position_std, generator=generator)
        background = audio.type_token == "background"
        embedding = audio.background_embedding if background else audio.control_embedding
        embedding.normal_(std=std, generator=generator)


@torch.no_grad()
def initialise_captioner(captioner: CaptionGenerator, seed: int) -> None:
    """Initialise the caption generator randomly, before it copies the text tower (facts 7.2).

    A BERT-style joint encoder copies nothing and stays random (facts 7.3).
    """
    generator = generator_for(seed, "captioner")
    _initialise_joint(captioner.joint, generator)
    captioner.head.dense.weight.normal_(std=LINEAR_STD, generator=generator)
    captioner.head.dense.bias.zero_()


@torch.no_grad()
def initialise_fusion(fusion: Fusion, seed: int) -> None:
    """Initialise the joint encoder of retrieval randomly, before it copies the text tower."""
    generator = generator_for(seed, "fusion")
    _initialise_joint(fusion.joint, generator)
    fusion.similarity.weight.normal_(std=LINEAR_STD, generator=generator)
    fusion.similarity.bias.zero_()


@torch.no_grad()
def initialise_gate(gate: Gate, seed: int) -> None:
    """Initialise a gate randomly, with nearly equal weights of vision and audio."""
    gate.linear.weight.normal_(std=LINEAR_STD, generator=generator_for(seed, "gate"))
    gate.linear.bias.zero_()


def _initialise_joint(joint: JointEncoder, generator: torch.Generator) -> None:
    joint.positional_embedding.normal_(std=LINEAR_STD, generator=generator)
    joint.type_embedding.weight.normal_(std=LINEAR_STD, generator=generator)
    _initialise_layers(joint, generator)


def _initialise_layers(module: nn.Module, generator: torch.Generator) -> None:
    """Draw Linear weights from N(0, 0.02) and attention's input projections Xavier (facts 3.3)."""
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            nn.init.xavier_uniform_(part.in_proj_weight, generator=generator)
            part.in_proj_bias.zero_()
        elif isinstance(part, nn.Linear):
            part.weight.normal_(std=LINEAR_STD, generator=generator)
            part.bias.zero_()
