"""Post-norm blocks in BERT's style: attention, feed-forward, and both as one block."""

from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from clip4vla.models.common.blocks import Projection, join_heads, split_heads
from clip4vla.models.common.initialise import LINEAR_STD

EPSILON = 1e-12  # of every LayerNorm


class Attention(nn.Module):
    """Attention with a residual connection and a LayerNorm behind it.

    source_dim: width of the attended sequence (None: `dim`). Dropout, on the attention weights and
    on the output, draws from torch's global generator: seed it per step.
    """

    def __init__(self, dim: int, heads: int, dropout: float, source_dim: int | None = None):
        super().__init__()
        source_dim = dim if source_dim is None else source_dim
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim, dim)
        self.value = nn.Linear(source_dim, dim)
        self.output = nn.Linear(dim, dim)
        self.output_norm = LayerNorm(dim, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, [B, heads, S, D / heads], of a sequence [B, S, E]."""
        return (
            split_heads(self.key(source), self.heads),
            split_heads(self.value(source), self.heads),
        )

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
        """Return the output [B, n, D] of x [B, n, D], which attends to keys and values.

        allowed: bool, broadcast to [B, heads, n, S]; None: everywhere.
        """
        query = split_heads(self.query(x), self.heads)
        dropout = self.dropout.p if self.training else 0.0
        attended = scaled_dot_product_attention(query, keys, values, allowed, dropout_p=dropout)
        return self.add(x, join_heads(attended))

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the output of x from the concatenated heads, [..., D]."""
        return self.output_norm(x + self.dropout(self.output(attended)))


class FeedForward(nn.Module):
    """Two linear maps around the exact (erf) GELU, a residual connection and a LayerNorm."""

    def __init__(self, dim: int, hidden: int, dropout: float):
        super().__init__()
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.norm = LayerNorm(dim, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., D] of [..., D]."""
        return self.norm(x + self.dropout(self.narrow(gelu(self.widen(x)))))


class BertBlock(Attention):
    """Self-attention, then a feed-forward. It is a `blocks.Block`."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float):
        super().__init__(dim, heads, dropout)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.norm = LayerNorm(dim, eps=EPSILON)

    def attention_input(self, x: Tensor) -> Tensor:
        """See `blocks.Block`."""
        return x

    def projections(self) -> tuple[Projection, Projection, Projection]:
        """See `blocks.Block`."""
        return (
            (self.query.weight, self.query.bias),
            (self.key.weight, self.key.bias),
            (self.value.weight, self.value.bias),
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `blocks.Block`."""
        return self.query(x), self.key(x), self.value(x)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """See `blocks.Block`."""
        return self.feed(self.add(x, attended))

    def feed(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the output [..., D] of the feed-forward; see `FeedForward`.

        rows: the positions of x [B, L, D] to compute (`valid_rows`); the others have zeros. None:
        all.
        """
        if rows is not None:
            fed = self.feed(x.flatten(0, 1).index_select(0, rows))  # [n, D]
            return fed.new_zeros(x.shape).flatten(0, 1).index_copy(0, rows, fed).view(x.shape)
        return self.norm(x + self.dropout(self.narrow(gelu(self.widen(x)))))

    def mixed(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Return the output [B, L, D] of self-attention.

        allowed: bool [B, L or 1, L], rows to columns; None: everywhere.
        """
        if allowed is not None:
            allowed = allowed[:, None]
        return self.attend(x, *self.keys_values(x), allowed)

    def forward(self, x: Tensor, allowed: Tensor | None, *, rows: Tensor | None = None) -> Tensor:
        """Return the output [B, L, D] of x [B, L, D]; see `mixed` and `feed`."""
        return self.feed(self.mixed(x, allowed), rows)


def valid_rows(mask: Tensor) -> Tensor | None:
    """Return the indices, int64 [n], of a flattened mask [B, L]; None where all of it is true.

    The device is asked once, since the answer gives shapes.
    """
    rows = mask.flatten().nonzero().squeeze(1)
    return None if len(rows) == mask.numel() else rows


def or_everywhere(allowed: Tensor) -> Tensor:
    """Let each row of a mask, bool [..., S], that has no column attend to all of them.

    Such a row is padding; a softmax over nothing would not be finite.
    """
    return allowed | ~allowed.any(dim=-1, keepdim=True)


def draw_weights(module: nn.Module) -> None:
    """Draw the weights of a linear map or an embedding from N(0, 0.02); biases are zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=LINEAR_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
