"""Pre-norm transformer blocks of the joint audio-visual encoder (facts 1.3, 8.1)."""

from collections.abc import Iterable
from typing import Any, Literal

from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from clip4vla.config.sections import Activation
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.activations import ACTIVATIONS
from clip4vla.models.common.blocks import join_heads, split_heads

Stream = Literal["audio", "vision", "av"]
STREAMS: tuple[Stream, ...] = ("audio", "vision", "av")


class Attention(nn.Module):
    """Self-attention with one map for queries, keys and values."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor, attend: Tensor | None = None) -> Tensor:
        """Mix positions: [B, n, W] to [B, n, W]. attend: bool [B, n], the keys; None: all."""
        query, key, value = (split_heads(y, self.heads) for y in self.qkv(x).chunk(3, dim=-1))
        mask = None if attend is None else attend[:, None, None]  # [B, heads, queries, keys]
        return self.proj(join_heads(scaled_dot_product_attention(query, key, value, mask)))


class Mlp(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, sizes: Sizes, activation: Activation):
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.mlp_ratio * sizes.width)
        self.activation = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(sizes.mlp_ratio * sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map every position: [..., W] to [..., W]."""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """A block of one modality."""

    def __init__(self, sizes: Sizes, activation: Activation):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(sizes.width), LayerNorm(sizes.width)
        self.attn = Attention(sizes)
        self.mlp = Mlp(sizes, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Encode tokens that are all valid: [N, n, W] to [N, n, W]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SharedBlock(nn.Module):
    """A block with a pair of norms for each stream: sound, pictures, and both together.

    The streams share the weights of attention and of the feed-forward half.
    """

    def __init__(self, sizes: Sizes, activation: Activation):
        super().__init__()
        self.norm1, self.norm2 = norms(sizes.width), norms(sizes.width)
        self.attn = Attention(sizes)
        self.mlp = Mlp(sizes, activation)

    def forward(self, x: Tensor, stream: Stream, attend: Tensor | None) -> Tensor:
        """Encode the tokens of a stream: [B, n, W] to [B, n, W]. attend: see `Attention`."""
        x = x + self.attn(self.norm1[stream](x), attend)
        return x + self.mlp(self.norm2[stream](x))


def norms(width: int) -> nn.ModuleDict:
    """Return a LayerNorm for each stream."""
    return nn.ModuleDict({stream: LayerNorm(width) for stream in STREAMS})


def through(blocks: Iterable[nn.Module], x: Tensor, *others: Any, recompute: bool) -> Tensor:
    """Return the output of a chain of blocks, which all read `others`, too.

    recompute: keep no activations of a block, but compute them again in the backward pass.
    """
    for block in blocks:
        x = checkpoint(block, x, *others, use_reentrant=False) if recompute else block(x, *others)
    return x
