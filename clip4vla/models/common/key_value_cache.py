"""A cache of keys and values for decoding: only the newest words are encoded.

The hypotheses of a clip share one cache, and a mask holds which words belong to each of them. So
nothing is copied when hypotheses are dropped and continued, and a clip is stored once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from clip4vla.models.common.blocks import Block, join_heads, split_heads


def with_newest(own_words: Tensor, parents: Tensor) -> Tensor:
    """Return which cached words belong to each hypothesis after a step: bool [B, k, words + k].

    own_words: bool [B, parents' k, words], before the step, in which each of the k hypotheses adds
    one word; parents: int64 [B, k], the hypothesis that each one continues.
    """
    clips, beams = parents.shape
    newest = torch.eye(beams, dtype=torch.bool, device=parents.device).expand(clips, -1, -1)
    rows = parents[..., None].expand(-1, -1, own_words.shape[-1])
    return torch.cat([own_words.gather(1, rows), newest], dim=-1)


class KeyValueCache:
    """Keys and values of a stack of blocks, at all positions so far; room: the most of them."""

    def __init__(self, blocks: Sequence[Block], room: int):
        self.blocks = blocks
        self.room = room
        self.length = 0
        self.cached: list[tuple[Tensor, Tensor]] = []  # per block, [B, heads, room, D / heads]

    def begin(self, keys_values: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Cache keys and values that were computed elsewhere: per block, [B, heads, n, D / heads].

        They precede all others.
        """
        for keys, values in keys_values:
            pair = self._with_room(keys), self._with_room(values)
            for cache, part in zip(pair, (keys, values), strict=True):
                cache[:, :, : keys.shape[2]] = part
            self.cached.append(pair)
            self.length = keys.shape[2]

    def extend(self, x: Tensor, attend: Tensor) -> Tensor:
        """Return the output [B, m, D] at new positions, and cache their keys and values.

        x: [B, m, D]; attend: bool [B, m, length + m], over cached and new positions.
        """
        end = self.length + x.shape[1]
        for index, block in enumerate(self.blocks):
            projected = block.project(block.attention_input(x))
            query, *new = (split_heads(part, block.heads) for part in projected)
            if len(self.cached) == index:
                self.cached.append((self._with_room(query), self._with_room(query)))
            for cache, part in zip(self.cached[index], new, strict=True):
                cache[:, :, self.length : end] = part
            keys, values = (cache[:, :, :end] for cache in self.cached[index])
            attended = scaled_dot_product_attention(query, keys, values, attend[:, None])
            x = block.finish(x, join_heads(attended))
        self.length = end
        return x

    def _with_room(self, x: Tensor) -> Tensor:
        """Return an empty cache for tensors like x [B, heads, n, D / heads]."""
        return x.new_empty((*x.shape[:2], self.room, x.shape[-1]))

    def select(self, clips: Tensor) -> None:
        """Continue with these clips only."""
        self.cached = [(keys[clips], values[clips]) for keys, values in self.cached]
