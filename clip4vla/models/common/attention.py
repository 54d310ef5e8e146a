"""Self-attention of open_clip's blocks without copies of queries, keys and values."""

from open_clip.transformer import Transformer
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from clip4vla.models.common.blocks import join_heads, split_heads


class SelfAttention(nn.MultiheadAttention):
    """torch's self-attention, batch first and without dropout, with the same weights.

    torch's own copies the projections of all tokens twice in the forward pass and three times in
    the backward pass, compiled or not (benchmarks/RESULTS.md).
    """

    def forward(  # type: ignore[override]  # open_clip's blocks give no more
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool, attn_mask: Tensor
    ) -> tuple[Tensor, None]:
        """Return the output [B, L, D] of `query` [B, L, D], which `key` and `value` are, too.

        attn_mask: added to the scores, broadcast to [B, heads, L, L]; or None.
        """
        assert query is key is value and not need_weights
        projected = linear(query, self.in_proj_weight, self.in_proj_bias)
        queries, keys, values = (split_heads(x, self.num_heads) for x in projected.chunk(3, dim=-1))
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask)
        return self.out_proj(join_heads(attended)), None


def without_copies(transformer: Transformer) -> None:
    """Let the blocks of a transformer attend by `SelfAttention`."""
    for block in transformer.resblocks:
        block.attn.__class__ = SelfAttention  # the same weights; a new layer would draw others
