"""Scores of all pairs of a text and a clip through the joint encoder, in bounded memory.

The results equal those of `Fusion.tight` and `Fusion.local_to_local`, which encode every pair with
all of its padding. Here texts and clips are sorted by length and paired in blocks, so that little
padding remains, and three computations per pair are saved:

- the queries, keys and values of the first layer depend on one token each: they are computed once
  per text and clip of a block;
- the last layer is computed at the first position only, the one that is scored;
- the last layer has one query per head, so the weights of keys are applied to the query, and those
  of values to the result, instead of to every token.

Pairs can share nothing else: from the second layer on, vision and audio depend on the text.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from clip4vla.models.clip4vla.fusion import Fusion
from clip4vla.models.clip4vla.joint import JointEncoder, JointInput, Kind, clip_parts, with_starts
from clip4vla.models.common.blocks import Block, join_heads, split_heads
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.pooling import normalise

CPU_TOKENS = 2048  # fits the CPU's cache: larger blocks were slower
GPU_TOKENS = 65536  # about 1.5 GB at width 512 in float32


class _Inputs(NamedTuple):
    """Texts or clips as inputs of the first layer."""

    x: Tensor  # [B, n, D], input of the first layer
    mask: Tensor  # bool [B, n]

    def compact(self) -> "_Inputs":
        """Move valid positions to the front and cut to the longest sequence."""
        order = (~self.mask).to(torch.uint8).argsort(dim=1, stable=True)
        order = order[:, : int(self.mask.sum(dim=1).max())]  # [B, n']
        index = order[..., None].expand(-1, -1, self.x.shape[-1])
        return _Inputs(self.x.gather(1, index), self.mask.gather(1, order))


@torch.no_grad()
def score_pairs(
    fusion: Fusion,
    text: Tensor,
    text_mask: Tensor | None,
    clip: Encoded,
    scale: float,
    block_tokens: int | None = None,
) -> Tensor:
    """Return the score of every text with every clip, float32 [Q, N], whatever the padding.

    fusion: in evaluation mode. text: [Q, D], the end tokens, with text_mask None: tight; or
    [Q, L, D], every token, with text_mask bool [Q, L], whose first column is true: local-to-local.
    clip: vision [N, F, D], audio [N, S, D], or one of them. block_tokens: the maximum number of
    positions that the joint encoder encodes at once, but always at least one pair (None: by
    device). It bounds the memory and changes no score.

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
    text_part = JointInput(Kind.TEXT, text, text_mask, room)
    starts = {part.kind: start for part, start in with_starts([text_part, *parts])}
    words = text_mask.sum(dim=1)  # [Q]
    tokens = torch.stack([part.mask.sum(dim=1) for part in parts]).sum(dim=0)  # [N]
    scores = text.new_empty(len(words), len(tokens), dtype=torch.float32)
    side = max(1, math.isqrt(block_tokens // int(words.max() + tokens.max())))
    for columns in tokens.argsort(descending=True, stable=True).split(side):
        clips = _inputs_of(fusion.joint, parts, starts, columns)
        size = clips.x.shape[:2].numel()
        for rows in _text_blocks(words, len(columns), size, block_tokens):
            texts = _inputs_of(fusion.joint, [text_part], starts, rows)
            first = fusion.joint.pooled(_first_of_pairs(fusion.joint, texts, clips))
            values = fusion.similarity(first).float().view(len(rows), len(columns))
            scores[rows[:, None], columns] = scale * values
    return scores


def _text_blocks(
    words: Tensor, clips: int, clip_tokens: int, block_tokens: int
) -> Iterator[Tensor]:
    """Yield indices of texts, longest first, in blocks that fit the bound when paired with clips.

    words: [Q], lengths of texts; clips: number of clips; clip_tokens: sum of their lengths.
    """
    order = words.argsort(descending=True, stable=True)
    while len(order):
        longest = int(words[order[0]])
        size = max(1, block_tokens // (clips * longest + clip_tokens))
        yield order[:size]
        order = order[size:]


def _inputs_of(
    joint: JointEncoder, parts: list[JointInput], starts: dict[Kind, int], index: Tensor
) -> _Inputs:
    """Return some texts or clips as inputs of the first layer, without padding."""
    chosen = [part._replace(features=part.features[index], mask=part.mask[index]) for part in parts]
    x = torch.cat([joint.embed(part, starts[part.kind]) for part in chosen], dim=1)
    return _Inputs(x, torch.cat([part.mask for part in chosen], dim=1)).compact()


def _first_of_pairs(joint: JointEncoder, texts: _Inputs, clips: _Inputs) -> Tensor:
    """Return the output of the first position of every pair, text by text: [texts * clips, D]."""
    x = _pair(texts.x, clips.x)  # [P, L, D]
    mask = _pair(texts.mask, clips.mask)  # [P, L]
    attend = None if bool(mask.all()) else mask[:, None, None, :]  # [P, 1, 1, L]
    *layers, last = joint.blocks()
    for index, block in enumerate(layers):
        if index == 0:
            by_text, by_clip = (block.project(block.attention_input(x)) for x in (texts.x, clips.x))
            projected = [_pair(text, clip) for text, clip in zip(by_text, by_clip, strict=True)]
        else:
            projected = list(block.project(block.attention_input(x)))
        query, key, value = (split_heads(part, block.heads) for part in projected)
        attended = scaled_dot_product_attention(query, key, value, attend)
        x = block.finish(x, join_heads(attended))
    return _first_output(last, x, mask)


def _pair(texts: Tensor, clips: Tensor) -> Tensor:
    """Concatenate every text with every clip: [Q, L, ...], [N, n, ...] to [Q * N, L + n, ...]."""
    queries, number = len(texts), len(clips)
    texts = texts[:, None].expand(-1, number, *texts.shape[1:])
    clips = clips[None].expand(queries, *clips.shape)
    return torch.cat([texts, clips], dim=2).flatten(0, 1)


def _first_output(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """Return the block's output [P, D] at the first position of x [P, L, D], mask bool [P, L].

    The bias of keys adds a constant to all scores of a query, so it cancels in the softmax.
    """
    (query_weight, query_bias), (key_weight, _), (value_weight, value_bias) = block.projections()
    inputs = block.attention_input(x)
    query = linear(inputs[:, 0], query_weight, query_bias)  # [P, D]
    by_head = (block.heads, -1)
    query, key_weight = query.unflatten(-1, by_head), key_weight.unflatten(0, by_head)
    probe = torch.einsum("phd,hde->phe", query, key_weight)  # [P, heads, D]
    scores = probe @ inputs.transpose(1, 2) / math.sqrt(query.shape[-1])  # [P, heads, L]
    weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1).to(inputs.dtype)
    value_weight = value_weight.unflatten(0, by_head)
    attended = torch.einsum("phe,hde->phd", weights @ inputs, value_weight).flatten(1)  # [P, D]
    return block.finish(x[:, 0], attended + value_bias)
