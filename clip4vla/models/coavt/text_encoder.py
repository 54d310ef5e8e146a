"""A BERT of texts: embeddings with learned positions, then post-norm blocks (facts 1.4)."""

from collections.abc import Callable

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.bert_block import (
    EPSILON,
    BertBlock,
    draw_weights,
    or_everywhere,
    valid_rows,
)


class TextEncoder(nn.Module):
    """Texts alone. Weights are drawn from torch's global generator: N(0, 0.02), biases zero.

    With `share_text: false` a module of this class encodes the texts of the contrast only.
    Matching and language modelling mix words with queries, so they keep the query encoder's own
    words and blocks [INF: the paper names two encoders and leaves open which of them reads the
    texts of these losses].
    """

    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__()
        width = sizes.query_width
        self.words = nn.Embedding(sizes.vocabulary, width)
        self.positions = nn.Embedding(sizes.text_positions, width)
        self.norm = LayerNorm(width, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            self._layer(index, sizes, dropout) for index in range(sizes.query_layers)
        )
        self.grad_checkpointing = False  # as open_clip's Transformer calls it
        self.apply(draw_weights)

    def _layer(self, index: int, sizes: Sizes, dropout: float) -> BertBlock:
        return BertBlock(sizes.query_width, sizes.query_heads, sizes.query_ffn, dropout)

    def text_alone(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the states of texts that attend to themselves, in both directions: [B, L, W].

        tokens: int64 [B, L]; mask: bool [B, L], the valid ones. What padding gets has no meaning.
        """
        x = self.embed(tokens)
        rows = valid_rows(mask)
        allowed = None if rows is None else or_everywhere(mask)[:, None]
        for layer in self.layers:
            x = self.run(layer, x, allowed, rows=rows)
        return x

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Return the input of the first block for tokens at the positions from `start`: [B, L, W].

        No segment vectors. ValueError when there are more tokens than positions.
        """
        end = start + tokens.shape[-1]
        if end > self.positions.num_embeddings:
            raise ValueError(f"{end} tokens, but {self.positions.num_embeddings} text positions")
        return self.embedded(self.words(tokens) + self.positions.weight[start:end])

    def embedded(self, x: Tensor) -> Tensor:
        """Return the norm of embeddings, the same for words and queries, with dropout."""
        return self.dropout(self.norm(x))

    def run(self, layer: Callable[..., Tensor], *inputs: object, rows: Tensor | None) -> Tensor:
        """Return the output of a layer, which may be computed again in the backward pass."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, rows=rows, use_reentrant=False)
        return layer(*inputs, rows=rows)
