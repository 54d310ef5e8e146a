"""A layer of the query encoder, and keys and values of clips for all of its layers (facts 1.4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from clip4vla.models.common.bert_block import Attention, BertBlock, FeedForward


class Source(NamedTuple):
    """Keys and values of clips in one layer."""

    keys: Tensor  # [C, heads, S, W / heads]
    values: Tensor  # [C, heads, S, W / heads]
    allowed: Tensor | None  # bool [C, 1, 1, S], the valid tokens; None: all

    def rows(self, index: Tensor) -> "Source":
        """Return those of some clips: int64 indices."""
        allowed = None if self.allowed is None else self.allowed[index]
        return Source(self.keys[index], self.values[index], allowed)


class QueryLayer(BertBlock):
    """A BERT block whose queries have a feed-forward of their own, and may attend to a clip.

    Self-attention has one set of weights for queries and words. encoder_width: width of the clip's
    tokens; None: a layer without cross-attention.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, dropout: float, encoder_width: int | None
    ):
        super().__init__(dim, heads, hidden, dropout)
        self.cross = None
        if encoder_width is not None:
            self.cross = Attention(dim, heads, dropout, source_dim=encoder_width)
        self.query_feed = FeedForward(dim, hidden, dropout)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | None,
        queries: int = 0,
        source: Source | None = None,
        *,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the output [B, n, W] of x [B, n, W], whose first `queries` rows are queries.

        allowed: bool [B, n or 1, n], rows to columns; None: everywhere. source: of C clips, where
        B is a multiple of C: each clip serves B / C consecutive rows of the batch. rows: the words
        that are no padding, see `BertBlock.feed`.
        """
        x = self.mixed(x, allowed)
        if not queries:
            return self.feed(x, rows)
        asking, words = x[:, :queries], x[:, queries:]
        if self.cross is not None and source is not None:
            by_clip = asking.reshape(len(source.keys), -1, asking.shape[-1])  # [C, B / C * Q, W]
            read = self.cross.attend(by_clip, *source)
            asking = read.reshape(asking.shape)
        asking = self.query_feed(asking)
        if not words.shape[1]:
            return asking
        return torch.cat([asking, self.feed(words, rows)], dim=1)


class ClipKeys(NamedTuple):
    """Keys and values of clips in every layer: `QueryEncoder.keys_of`."""

    layers: list[Source | None]  # None: a layer without cross-attention
    clips: int

    def rows(self, index: Tensor) -> "ClipKeys":
        """Return those of some clips: int64 indices."""
        layers = [source and source.rows(index) for source in self.layers]
        return ClipKeys(layers, len(index))
