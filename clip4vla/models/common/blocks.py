"""Attention blocks in separate steps, for computations that share or cache keys and values.

Decoding caches the keys and values of earlier words, and the scoring of pairs computes those of the
first layer once for many pairs. Both need a block in three steps: the input of attention, its
queries, keys and values, and the rest of the block.
"""

from typing import Protocol

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn.functional import linear

Projection = tuple[Tensor, Tensor]  # weight [D, D], bias [D]


class Block(Protocol):
    """One transformer block; D is its width."""

    heads: int

    def attention_input(self, x: Tensor) -> Tensor:
        """Return the input of the projections. [..., D] to [..., D]."""

    def projections(self) -> tuple[Projection, Projection, Projection]:
        """Return the weights of queries, keys and values."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values of an `attention_input`, each [..., D]."""

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output from its input and the concatenated heads, [..., D]."""


class ClipBlock:
    """A view of open_clip's pre-LN block with shared weights. For evaluation: no dropout."""

    def __init__(self, block: ResidualAttentionBlock):
        self.block = block
        self.heads = block.attn.num_heads

    def attention_input(self, x: Tensor) -> Tensor:
        """See `Block`."""
        return self.block.ln_1(x)

    def projections(self) -> tuple[Projection, Projection, Projection]:
        """See `Block`."""
        attention = self.block.attn
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        query, key, value = zip(weights, biases, strict=True)
        return query, key, value

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Block`."""
        attention = self.block.attn
        projected = linear(x, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.chunk(3, dim=-1)
        return query, key, value

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """See `Block`."""
        x = x + self.block.attn.out_proj(attended)
        return x + self.block.mlp(self.block.ln_2(x))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the heads: [B, n, D] to [B, heads, n, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Concatenate the heads: [B, heads, n, D / heads] to [B, n, D]."""
    return x.transpose(1, 2).flatten(2)
