"""Random starts, each from its own seeded generator: one seed gives one set of weights."""

import contextlib
import hashlib
from collections.abc import Iterator
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
from clip4vla.models.common.probe import Probe

LINEAR_STD = 0.02  # of Linear and Embedding modules that start from nothing (facts 3.3)


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextlib.contextmanager
def seeded_construction(seed: int) -> Iterator[None]:
    """Let constructors that draw from torch's global CPU generator draw from `seed` instead.

    open_clip's towers and torch's layers take no generator. The global state is put back after.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(generator_for(seed, "towers").initial_seed())
        yield


@torch.no_grad()
def start_text(model: CLIP4VLA, seed: int) -> None:
    """Draw the three new rows of the vocabulary (mask, unk, pad) at the size of CLIP's own rows.

    The released code draws them from N(0, 1), 50 times larger; as output classes of captioning
    they would then win at first (facts 4.2).
    """
    rows = model.text.token_embedding.weight[CLIP_VOCABULARY:]
    rows.normal_(std=LINEAR_STD, generator=generator_for(seed, "vocabulary"))


@torch.no_grad()
def start_audio(
    audio: AudioTower, extra_position: Literal["scaled", "released"], seed: int
) -> None:
    """The audio tower from nothing (facts 3.3): what Table 5 calls Scratch.

    The type token's embeddings are width^-0.5 in size, and so is its position, unless
    `extra_position` is released: then it is N(0, 1), 28 times larger for ViT-B/32.
    """
    generator = generator_for(seed, "audio")
    std = audio.positional_embedding.shape[1] ** -0.5
    for tensor in (audio.class_embedding, audio.positional_embedding, audio.proj):
        tensor.normal_(std=std, generator=generator)
    nn.init.kaiming_uniform_(audio.conv1.weight, a=5**0.5, generator=generator)  # torch's own
    _start_layers(audio.transformer, generator)
    if audio.type_token != "none":
        generator = generator_for(seed, "type token")
        position_std = std if extra_position == "scaled" else 1.0
        audio.positional_embedding[-1].normal_(std=position_std, generator=generator)
        one = audio.type_token == "background"
        embedding = audio.background_embedding if one else audio.control_embedding
        embedding.normal_(std=std, generator=generator)


@torch.no_grad()
def start_captioner(captioner: CaptionGenerator, seed: int) -> None:
    """The caption generator from nothing, before it copies the text tower's blocks (facts 7.2).

    A BERT-style joint encoder copies nothing and stays so (facts 7.3).
    """
    generator = generator_for(seed, "captioner")
    _start_joint(captioner.joint, generator)
    captioner.head.dense.weight.normal_(std=LINEAR_STD, generator=generator)
    captioner.head.dense.bias.zero_()


@torch.no_grad()
def start_fusion(fusion: Fusion, seed: int) -> None:
    """The joint encoder of retrieval from nothing, before it copies the text tower's blocks."""
    generator = generator_for(seed, "fusion")
    _start_joint(fusion.joint, generator)
    fusion.similarity.weight.normal_(std=LINEAR_STD, generator=generator)
    fusion.similarity.bias.zero_()


@torch.no_grad()
def start_gate(gate: Gate, seed: int) -> None:
    """A gate from nothing: it weighs vision and audio about alike."""
    gate.linear.weight.normal_(std=LINEAR_STD, generator=generator_for(seed, "gate"))
    gate.linear.bias.zero_()


@torch.no_grad()
def start_probe(probe: Probe, seed: int) -> None:
    """The linear probe from nothing."""
    probe.linear.weight.normal_(std=LINEAR_STD, generator=generator_for(seed, "probe"))
    probe.linear.bias.zero_()


def _start_joint(joint: JointEncoder, generator: torch.Generator) -> None:
    joint.positional_embedding.normal_(std=LINEAR_STD, generator=generator)
    joint.type_embedding.weight.normal_(std=LINEAR_STD, generator=generator)
    _start_layers(joint, generator)


def _start_layers(module: nn.Module, generator: torch.Generator) -> None:
    """Linear N(0, 0.02) with zero bias, attention's input projection Xavier uniform (facts 3.3)."""
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            nn.init.xavier_uniform_(part.in_proj_weight, generator=generator)
            part.in_proj_bias.zero_()
        elif isinstance(part, nn.Linear):
            part.weight.normal_(std=LINEAR_STD, generator=generator)
            part.bias.zero_()
