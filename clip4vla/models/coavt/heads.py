"""Heads of the query encoder: matching and language (facts 1.4)."""

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn
from torch.nn.functional import gelu

from clip4vla.models.common.bert_block import EPSILON, draw_weights
from clip4vla.models.common.tied_logits import tied_logits


class MatchingHead(nn.Linear):
    """Whether a text belongs to a clip: two logits of each query, averaged."""

    def __init__(self, width: int):
        super().__init__(width, 2)
        draw_weights(self)

    def forward(self, queries: Tensor) -> Tensor:
        """Return the logits (no, yes) [B, 2] of query states [B, Q, W] of `together`."""
        return super().forward(queries).mean(dim=1)


class LanguageHead(nn.Module):
    """Linear, GELU, LayerNorm, then the product with the word embeddings (tied) and a bias."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.apply(draw_weights)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """Return the logits [..., V] of the next word from states [..., W].

        words: [V, W], the weight of the query encoder's word embedding.
        """
        return tied_logits(self.norm(gelu(self.dense(x))), words, self.bias, self.training)
