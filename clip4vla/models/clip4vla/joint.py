"""The joint encoder over text, vision and audio, in CLIP's style (facts 7.2)."""

from enum import IntEnum
from typing import NamedTuple

import torch
from open_clip.transformer import LayerNorm, QuickGELU, Transformer
from torch import Tensor, nn

from clip4vla.models.clip4vla.towers import TextTower
from clip4vla.models.common.attention import without_copies
from clip4vla.models.common.blocks import Block, ClipBlock
from clip4vla.models.common.encoded import Encoded

DROPOUT = 0.1  # on the input, while training


class Kind(IntEnum):
    """Rows of the type embedding."""

    TEXT = 0
    VISION = 1
    AUDIO = 2


class JointInput(NamedTuple):
    """One modality of the sequence."""

    kind: Kind
    features: Tensor  # [B, n, D], un-normalised outputs of a tower
    mask: Tensor  # bool [B, n]
    room: int  # positions reserved for it, n or more; the next part starts after them


class JointEncoder(nn.Module):
    """Pre-LN blocks over the concatenated outputs of the towers; no LayerNorm at the end.

    Type embeddings and learned positions are added to each part. Its positions are those in a
    sequence whose parts fill all of their room. So the result of a clip depends on the run's
    settings, not on the lengths of the other clips in its batch. Dropout draws from torch's global
    generator: seed it per step.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        positions: int = 77,
        activation: type[nn.Module] = QuickGELU,
    ):
        super().__init__()
        self.heads = heads
        self.activation = activation
        self.positional_embedding = nn.Parameter(torch.zeros(positions, dim))
        self.type_embedding = nn.Embedding(len(Kind), dim)
        self.dropout = nn.Dropout(DROPOUT)
        self._add_layers(dim, layers)

    def _add_layers(self, dim: int, layers: int) -> None:
        self.transformer = Transformer(
            dim, layers, self.heads, act_layer=self.activation, norm_layer=LayerNorm
        )
        without_copies(self.transformer)

    def forward(self, parts: list[JointInput], attend: Tensor | None = None) -> list[Tensor]:
        """Encode one sequence per clip; return the output of each part, [B, n, D].

        attend: bool [L, L] over the concatenated sequence, true where row i attends to column j
        (None: everywhere). Padding is never attended to. A row without any column attends to
        itself, so that no softmax is empty; such a row is padding.
        """
        x = torch.cat([self.embed(part, start) for part, start in with_starts(parts)], dim=1)
        valid = torch.cat([part.mask for part in parts], dim=1)  # [B, L]
        length = valid.shape[1]
        allowed = valid[:, None, :].expand(-1, length, -1)  # [B, L, L]
        if attend is not None:
            allowed = allowed & attend
        x = self._encode(self.dropout(x), never_empty(allowed))
        return list(x.split([part.features.shape[1] for part in parts], dim=1))

    def _encode(self, x: Tensor, attend: Tensor) -> Tensor:
        """Pass x [B, L, D] through all blocks; attend: bool [B, L, L]."""
        mask = torch.zeros(attend.shape, device=x.device).masked_fill(~attend, float("-inf"))
        return self.transformer(x, attn_mask=mask[:, None])  # one for all heads

    def embed(self, part: JointInput, start: int) -> Tensor:
        """Return the input of the first block: features + positions from `start` + type [B, n, D].

        ValueError when the part exceeds its room, or the sequence exceeds the positions.
        """
        length, positions = part.features.shape[1], len(self.positional_embedding)
        if length > part.room or start + length > positions:
            raise ValueError(
                f"{part.kind.name.lower()}: {length} positions after {start} do not fit: it has "
                f"room for {part.room}, and the joint encoder has {positions} in all"
            )
        rows = self.positional_embedding[start : start + length]
        return part.features + rows + self.type_embedding.weight[part.kind]

    def pooled(self, first: Tensor) -> Tensor:
        """Return the pooled vector of a sequence: its first output [..., D], unchanged."""
        return first

    def blocks(self) -> list[Block]:
        """Return the layers as `Block`s. They have no dropout: for evaluation only."""
        return [ClipBlock(block) for block in self.transformer.resblocks]

    @torch.no_grad()
    def copy_from(self, text: TextTower) -> None:
        """Copy the positions and the first blocks of the text tower.

        Further blocks keep their random initial weights.
        """
        self.positional_embedding.copy_(text.positional_embedding)
        blocks = zip(self.transformer.resblocks, text.transformer.resblocks, strict=False)
        for block, text_block in blocks:
            block.load_state_dict(text_block.state_dict())


def never_empty(attend: Tensor) -> Tensor:
    """Let each row of a mask, bool [..., L, L], that has no column attend to itself."""
    itself = torch.eye(attend.shape[-1], dtype=torch.bool, device=attend.device)
    return attend | (itself & ~attend.any(dim=-1, keepdim=True))


def clip_parts(
    max_frames: int,
    encoded: Encoded,
) -> list[JointInput]:
    """Return the modalities of clips as parts of a sequence.

    Vision [B, F, D] has `max_frames` positions, audio [B, S, D] follows.
    """
    parts = []
    if "vision" in encoded:
        features, mask = encoded["vision"]
        parts.append(JointInput(Kind.VISION, features, mask, max_frames))
    if "audio" in encoded:
        features, mask = encoded["audio"]
        parts.append(JointInput(Kind.AUDIO, features, mask, room=features.shape[1]))
    return parts


def with_starts(parts: list[JointInput]) -> list[tuple[JointInput, int]]:
    """Return each part with the position of its first row."""
    start, pairs = 0, []
    for part in parts:
        pairs.append((part, start))
        start += part.room
    return pairs
