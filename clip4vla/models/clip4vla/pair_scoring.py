"""Scores of all pairs of a text and a clip through the joint encoder, in bounded memory.

The same numbers as `Fusion.tight` and `Fusion.local_to_local`, which pass every pair with all its
padding. Here texts and clips are sorted by length and paired in blocks, so that hardly any padding
is left, and three things are not computed again for every pair:

- what the first layer's attention reads (its queries, keys and values), which knows only its own
  token: once per text and clip of a block;
- the last layer beyond the first position, which alone is scored;
- the last layer's keys and values: with one query per head, the key's weights are applied to the
  query and the value's weights to the result, instead of to every token.

Nothing else can be shared between pairs: from the second layer on, what is seen and heard depends
on the text that it is read with.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.joint import JointEncoder, Kind, Part, clip_parts, starts
from clip4vla.models.common.blocks import Block, join_heads, split_heads
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.pooling import normalise

CPU_TOKENS = 2048  # what passes a layer stays in the cache: larger blocks were slower
GPU_TOKENS = 65536  # about 1.5 GB at width 512 in float32


class _Side(NamedTuple):
    """Texts or clips, placed in the sequence."""

    x: Tensor  # [B, n, D], input of the first layer
    mask: Tensor  # bool [B, n]

    def compact(self) -> "_Side":
        """Valid positions first, in their order; as short as the longest of them."""
        order = (~self.mask).to(torch.uint8).argsort(dim=1, stable=True)
        order = order[:, : int(self.mask.sum(dim=1).max())]  # [B, n']
        index = order[..., None].expand(-1, -1, self.x.shape[-1])
        return _Side(self.x.gather(1, index), self.mask.gather(1, order))


@torch.no_grad()
def score_pairs(
    fusion: Fusion,
    text: Tensor,
    text_mask: Tensor | None,
    clip: Encoded,
    scale: float,
    block_tokens: int | None = None,
) -> Tensor:
    """Score every text with every clip; padding costs nothing and changes nothing.

    fusion: in evaluation mode. text: [Q, D], the end tokens, with text_mask None: tight; or
    [Q, L, D], every token, with text_mask bool [Q, L], whose first column is true: local-to-local.
    clip: vision [N, F, D], audio [N, S, D], or one of them. block_tokens: positions that pass the
    joint encoder at once, at least one pair's (None: as suits the device); it bounds the memory and
    changes no score. Gives float32 [Q, N].

    ValueError when fusion is in training mode, or the first token of a text is not valid.
    """
    if fusion.training:
        raise ValueError("score_pairs needs fusion.eval(): dropout would change the scores")
    if block_tokens is None:
        block_tokens = CPU_TOKENS if text.device.type == "cpu" else GPU_TOKENS
    if text_mask is None:
        text = normalise(text).to(text.dtype)[:, None]  # [Q, 1, D]
        text_mask, room = torch.ones_like(text[..., 0], dtype=torch.bool), 1
    else:
        room = fusion.max_words
    if not text_mask[:, 0].all():
        raise ValueError("score_pairs: the first token of every text must be valid")
    parts = clip_parts(fusion.max_frames, clip)
    whole = [Part(Kind.TEXT, text, text_mask, room), *parts]
    where = dict(zip((part.kind for part in whole), (s for _, s in starts(whole)), strict=True))
    words = text_mask.sum(dim=1)  # [Q]
    tokens = torch.stack([part.mask.sum(dim=1) for part in parts]).sum(dim=0)  # [N]
    scores = text.new_empty(len(words), len(tokens), dtype=torch.float32)
    side = max(1, math.isqrt(block_tokens // int(words.max() + tokens.max())))
    for columns in tokens.argsort(descending=True, stable=True).split(side):
        clips = _placed(fusion.joint, parts, where, columns)
        size = clips.x.shape[:2].numel()
        for rows in _cut(words, len(columns), size, block_tokens):
            texts = _placed(fusion.joint, whole[:1], where, rows)
            first = fusion.joint.pooled(_first_of_pairs(fusion.joint, texts, clips))
            values = fusion.similarity(first).float().view(len(rows), len(columns))
            scores[rows[:, None], columns] = scale * values
    return scores


def _cut(words: Tensor, clips: int, clip_tokens: int, block_tokens: int) -> Iterator[Tensor]:
    """Indices of texts, longest first, in blocks that pair with `clips` clips within the bound.

    words: [Q], lengths; clip_tokens: positions of these clips together.
    """
    order = words.argsort(descending=True, stable=True)
    while len(order):
        longest = int(words[order[0]])
        size = max(1, block_tokens // (clips * longest + clip_tokens))
        yield order[:size]
        order = order[size:]


def _placed(joint: JointEncoder, parts: list[Part], where: dict[Kind, int], index: Tensor) -> _Side:
    """Some texts or clips as inputs of the first layer, without padding."""
    chosen = [part._replace(features=part.features[index], mask=part.mask[index]) for part in parts]
    x = torch.cat([joint.placed(part, where[part.kind]) for part in chosen], dim=1)
    return _Side(x, torch.cat([part.mask for part in chosen], dim=1)).compact()


def _first_of_pairs(joint: JointEncoder, texts: _Side, clips: _Side) -> Tensor:
    """Output of the first position of every pair, text by text: [texts * clips, D]."""
    x = _pair(texts.x, clips.x)  # [P, L, D]
    mask = _pair(texts.mask, clips.mask)  # [P, L]
    attend = None if bool(mask.all()) else mask[:, None, None, :]  # [P, 1, 1, L]
    *layers, last = joint.blocks()
    for index, block in enumerate(layers):
        if index == 0:
            of_texts, of_clips = (block.project(block.reads(side.x)) for side in (texts, clips))
            both = zip(of_texts, of_clips, strict=True)
            projected = [_pair(text, clip) for text, clip in both]
        else:
            projected = list(block.project(block.reads(x)))
        query, key, value = (split_heads(part, block.heads) for part in projected)
        attended = scaled_dot_product_attention(query, key, value, attend)
        x = block.finish(x, join_heads(attended))
    return _first_output(last, x, mask)


def _pair(texts: Tensor, clips: Tensor) -> Tensor:
    """[Q, L, ...] and [N, n, ...] to [Q * N, L + n, ...]."""
    queries, number = len(texts), len(clips)
    texts = texts[:, None].expand(-1, number, *texts.shape[1:])
    clips = clips[None].expand(queries, *clips.shape)
    return torch.cat([texts, clips], dim=2).flatten(0, 1)


def _first_output(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """The block's output at the first position: x [P, L, D], mask bool [P, L] to [P, D].

    A key's bias adds the same to every score of a query, which softmax does not see.
    """
    (query_weight, query_bias), (key_weight, _), (value_weight, value_bias) = block.projections()
    read = block.reads(x)
    query = linear(read[:, 0], query_weight, query_bias)  # [P, D]
    by_head = (block.heads, -1)
    query, key_weight = query.unflatten(-1, by_head), key_weight.unflatten(0, by_head)
    probe = torch.einsum("phd,hde->phe", query, key_weight)  # [P, heads, D]
    scores = probe @ read.transpose(1, 2) / math.sqrt(query.shape[-1])  # [P, heads, L]
    weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1).to(read.dtype)
    value_weight = value_weight.unflatten(0, by_head)
    attended = torch.einsum("phe,hde->phd", weights @ read, value_weight).flatten(1)  # [P, D]
    return block.finish(x[:, 0], attended + value_bias)
