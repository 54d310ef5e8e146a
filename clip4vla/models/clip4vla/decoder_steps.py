"""The caption generator, one word at a time: with kept keys and values, or from the start again.

Positions. `fixed`: as in training, text has the first `max_words` positions, vision the next
`max_frames`, audio the rest. What is seen and heard never reads the text, so its keys and values
stay as they are, and those of earlier words too, because no word reads a later one: keeping them
changes nothing. `sliding` (released, facts 8.3): vision follows the words so far without a gap, so
that its positions and audio's move with every word, away from those of training; nothing can be
kept.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from clip4vla.config.sections import Positions
from clip4vla.models.clip4vla.caption import CaptionGenerator
from clip4vla.models.clip4vla.joint import Kind, Part, clip_parts, or_itself, starts
from clip4vla.models.clip4vla.towers import TextTower
from clip4vla.models.common.blocks import Block, ClipBlock, join_heads, split_heads
from clip4vla.models.common.encoded import Encoded, each


class CaptionModel(Protocol):
    """The parts of a CLIP4VLA that write captions."""

    text: TextTower
    captioner: CaptionGenerator | None
    half_weights: bool
    training: bool

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `CLIP4VLA.encode_text`."""


class EncodedSteps:
    """Encodes all words so far, and the clip, at every step (`beam_search.Steps`)."""

    def __init__(
        self,
        model: CaptionModel,
        clip: Encoded,
        positions: Positions,
    ):
        assert model.captioner is not None
        self.model, self.captioner = model, model.captioner
        self.sliding = positions == "sliding"
        self.clip = clip

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """See `beam_search.Steps`."""
        hypotheses = tokens.shape[1]
        clip = each(self.clip, lambda x: x.repeat_interleave(hypotheses, 0))
        words = tokens.flatten(0, 1)  # [B * k, t]
        features, _ = self.model.encode_text(words)
        mask = torch.ones_like(words, dtype=torch.bool)
        room = words.shape[1] if self.sliding else None
        x = self.captioner.hidden(features, mask, clip, words_room=room)
        return self.captioner.head(x[:, -1]).unflatten(0, tokens.shape[:2])

    def keep(self, clips: Tensor) -> None:
        """See `beam_search.Steps`."""
        self.clip = each(self.clip, lambda x: x[clips])


class CachedSteps:
    """Passes only the newest words through the towers (`beam_search.Steps`); positions are fixed.

    The hypotheses of a clip share one memory: a table says whose words each of them reads. So
    nothing is copied when hypotheses are dropped and continued, and what is seen and heard is kept
    once per clip. room: most words per clip, those of all its hypotheses together.
    """

    def __init__(
        self,
        model: CaptionModel,
        clip: Encoded,
        room: int,
    ):
        assert model.captioner is not None
        self.model, self.captioner = model, model.captioner
        parts = clip_parts(self.captioner.max_frames, clip)
        text = Part(
            kind=Kind.TEXT,
            features=parts[0].features[:, :0],  # no word yet
            mask=parts[0].mask[:, :0],
            room=self.captioner.max_words,
        )
        joint = self.captioner.joint
        placed = [joint.placed(part, start) for part, start in starts([text, *parts])]
        x = torch.cat(placed, dim=1)  # [B, n, D]
        self.valid = torch.cat([part.mask for part in parts], dim=1)  # [B, n]
        blocks = [ClipBlock(block) for block in model.text.transformer.resblocks]
        self.words = _Memory(blocks, room)
        self.joint = _Memory(joint.blocks(), x.shape[1] + room)
        self.joint.extend(x, or_itself(self.valid[:, None].expand(-1, x.shape[1], -1)))
        self.read = x.new_zeros(len(x), 1, 0, dtype=torch.bool)  # [B, k, words of all hypotheses]

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """See `beam_search.Steps`."""
        clips, beams, length = tokens.shape
        own = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(clips, -1, -1)
        rows = parents[..., None].expand(-1, -1, self.read.shape[-1])
        self.read = torch.cat([self.read.gather(1, rows), own], dim=-1)  # [B, k, words of all]
        features = self._text_features(tokens[..., -1], length - 1)  # [B, k, D]
        words = features.flatten(0, 1)[:, None]  # [B * k, 1, D]
        newest = Part(Kind.TEXT, words, words.new_ones(words.shape[:2], dtype=torch.bool), room=1)
        x = self.captioner.joint.placed(newest, length - 1).view(features.shape)
        seen = self.valid[:, None].expand(-1, beams, -1)  # [B, k, n]
        return self.captioner.head(self.joint.extend(x, torch.cat([seen, self.read], dim=-1)))

    def _text_features(self, tokens: Tensor, position: int) -> Tensor:
        """The text tower's output at one position: tokens [B, k] to [B, k, D]."""
        text = self.model.text
        x = text.token_embedding(tokens) + text.positional_embedding[position]
        if self.model.half_weights:  # as TextTransformer does before its first block
            x = x.to(text.text_projection.dtype)
        x = text.ln_final(self.words.extend(x, self.read)) @ text.text_projection
        return x.float() if self.model.half_weights else x

    def keep(self, clips: Tensor) -> None:
        """See `beam_search.Steps`."""
        self.valid, self.read = self.valid[clips], self.read[clips]
        self.words.keep(clips)
        self.joint.keep(clips)


class _Memory:
    """Keys and values of a stack of blocks, for all that has passed it."""

    def __init__(self, blocks: Sequence[Block], room: int):
        self.blocks = blocks
        self.room = room
        self.length = 0
        self.kept: list[tuple[Tensor, Tensor]] = []  # of each block, [B, heads, room, D / heads]

    def extend(self, x: Tensor, attend: Tensor) -> Tensor:
        """Pass new positions, which read the kept ones and each other as `attend` says.

        x: [B, m, D]; attend: bool [B, m, length + m]. Gives [B, m, D].
        """
        end = self.length + x.shape[1]
        for index, block in enumerate(self.blocks):
            projected = block.project(block.reads(x))
            query, *new = (split_heads(part, block.heads) for part in projected)
            if len(self.kept) == index:
                shape = (*query.shape[:2], self.room, query.shape[-1])
                self.kept.append((query.new_empty(shape), query.new_empty(shape)))
            for memory, part in zip(self.kept[index], new, strict=True):
                memory[:, :, self.length : end] = part
            keys, values = (memory[:, :, :end] for memory in self.kept[index])
            attended = scaled_dot_product_attention(query, keys, values, attend[:, None])
            x = block.finish(x, join_heads(attended))
        self.length = end
        return x

    def keep(self, clips: Tensor) -> None:
        """Go on with these clips alone."""
        self.kept = [(keys[clips], values[clips]) for keys, values in self.kept]
