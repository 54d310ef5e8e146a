"""The query encoder: learned queries that read a clip, and words that read the queries.

One stack of BERT blocks serves queries and texts (BLIP-2's reading of the paper's two modules,
facts 1.4). The attention mask decides what is computed (facts 2.1): queries alone and text alone
for the contrast, both freely mixed for matching, and causal words after queries for language.
"""

import torch
from open_clip.transformer import LayerNorm
from torch import Tensor, nn

from clip4vla.models.coavt.query_layer import ClipKeys, QueryLayer, Source
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.coavt.text_encoder import TextEncoder
from clip4vla.models.common.bert_block import BertBlock, or_everywhere, valid_rows
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.initialise import LINEAR_STD

ENCODER_EPSILON = 1e-5  # of the LayerNorm before cross-attention, unlike all others


class QueryEncoder(TextEncoder):
    """Queries, words and the layers that they share.

    Queries have no positions, and words have theirs from 0, whether or not queries precede them.
    Only queries attend to a clip, every `cross_every` layers. Where a method takes a clip, it takes
    its tokens or their `keys_of`: the latter are computed once for several passes.
    """

    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__(sizes, dropout)
        self.queries = nn.Parameter(torch.empty(sizes.queries, sizes.query_width))
        nn.init.normal_(self.queries, std=LINEAR_STD)
        self.encoder_norm = LayerNorm(sizes.encoder_width, eps=ENCODER_EPSILON)

    def _layer(self, index: int, sizes: Sizes, dropout: float) -> BertBlock:
        crosses = index % sizes.cross_every == 0
        return QueryLayer(
            dim=sizes.query_width,
            heads=sizes.query_heads,
            hidden=sizes.query_ffn,
            dropout=dropout,
            encoder_width=sizes.encoder_width if crosses else None,
        )

    def keys_of(self, clip: FeatureSequence) -> ClipKeys:
        """Return keys and values of clips [C, S, E] for cross-attention in every layer."""
        features = self.encoder_norm(clip.features)
        complete = bool(clip.mask.all())  # attention without a mask is faster
        allowed = None if complete else or_everywhere(clip.mask)[:, None, None]
        layers: list[Source | None] = []
        for layer in self.query_layers():
            if layer.cross is None:
                layers.append(None)
            else:
                layers.append(Source(*layer.cross.keys_values(features), allowed))
        return ClipKeys(layers, len(features))

    def queries_alone(self, clip: FeatureSequence | ClipKeys) -> Tensor:
        """Return the states of the queries of C clips: [C, Q, W]."""
        keys = self._keys(clip)
        return self._layers(self.first_queries(keys.clips), None, keys, None)

    def together(
        self, tokens: Tensor, mask: Tensor, clip: FeatureSequence | ClipKeys, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the states of queries [B, Q, W] and words [B, L, W] of texts with clips.

        tokens: int64 [B, L]; mask: bool [B, L], the valid ones. Of C clips, each serves B / C
        consecutive texts, and cross-attention needs its keys and values once.

        causal: words attend to queries and to words up to themselves, and queries to queries only:
        their states are those of `queries_alone`. Otherwise all attend to all.
        """
        keys = self._keys(clip)
        if len(tokens) % keys.clips:
            raise ValueError(f"{len(tokens)} texts for {keys.clips} clips, not a multiple of them")
        x = torch.cat([self.first_queries(len(tokens)), self.embed(tokens)], dim=1)
        queries = len(self.queries)
        whole = torch.cat([mask.new_ones(len(mask), queries), mask], dim=1)  # [B, Q + L]
        rows = valid_rows(mask)
        allowed = None if rows is None else whole[:, None]
        if causal:
            allowed = causal_mask(queries, whole.shape[1], mask.device) & whole[:, None]
        x = self._layers(x, allowed, keys, rows)
        return x[:, :queries], x[:, queries:]

    def query_layers(self) -> list[QueryLayer]:
        """Return the layers."""
        return [layer for layer in self.layers if isinstance(layer, QueryLayer)]

    def first_queries(self, count: int) -> Tensor:
        """Return the queries as input of the first layer, [count, Q, W]."""
        return self.embedded(self.queries.expand(count, -1, -1))

    def _keys(self, clip: FeatureSequence | ClipKeys) -> ClipKeys:
        return clip if isinstance(clip, ClipKeys) else self.keys_of(clip)

    def _layers(
        self, x: Tensor, allowed: Tensor | None, keys: ClipKeys, rows: Tensor | None
    ) -> Tensor:
        for layer, source in zip(self.layers, keys.layers, strict=True):
            x = self.run(layer, x, allowed, len(self.queries), source, rows=rows)
        return x


def causal_mask(queries: int, length: int, device: torch.device | None = None) -> Tensor:
    """Return the mask of language modelling, bool [length, length], rows to columns.

    Queries come first and attend to each other; a word attends to queries and to words up to
    itself.
    """
    index = torch.arange(length, device=device)
    return (index[None] < queries) | (index[None] <= index[:, None])
