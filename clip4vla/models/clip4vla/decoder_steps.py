"""Decoder steps of the caption generator, with and without a cache of keys and values.

Positions. `fixed`: as in training, text has the first `max_words` positions, vision the next
`max_frames`, audio the rest. Vision and audio never attend to text, and no word attends to a later
one, so keys and values never change: a cache gives the same results. `sliding` (released, facts
8.3): vision follows the words so far without a gap, so the positions of vision and audio move with
every word, unlike in training, and nothing can be cached.
"""

from typing import Protocol

import torch
from torch import Tensor

from clip4vla.config.sections import Positions
from clip4vla.models.clip4vla.caption import CaptionGenerator
from clip4vla.models.clip4vla.joint import JointInput, Kind, clip_parts, never_empty, with_starts
from clip4vla.models.clip4vla.towers import TextTower
from clip4vla.models.common.blocks import ClipBlock
from clip4vla.models.common.encoded import Encoded, each
from clip4vla.models.common.key_value_cache import KeyValueCache, with_newest


class CaptionModel(Protocol):
    """The parts of a CLIP4VLA that write captions."""

    text: TextTower
    captioner: CaptionGenerator | None
    half_weights: bool
    training: bool

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `CLIP4VLA.encode_text`."""


class UncachedSteps:
    """Steps that encode all words so far and the clip again (`beam_search.DecoderSteps`)."""

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
        """See `DecoderSteps`."""
        hypotheses = tokens.shape[1]
        clip = each(self.clip, lambda x: x.repeat_interleave(hypotheses, 0))
        words = tokens.flatten(0, 1)  # [B * k, t]
        features, _ = self.model.encode_text(words)
        mask = torch.ones_like(words, dtype=torch.bool)
        room = words.shape[1] if self.sliding else None
        x = self.captioner.hidden(features, mask, clip, words_room=room)
        return self.captioner.head(x[:, -1]).unflatten(0, tokens.shape[:2])

    def select(self, clips: Tensor) -> None:
        """See `DecoderSteps`."""
        self.clip = each(self.clip, lambda x: x[clips])


class CachedSteps:
    """Steps that encode only the newest words (`beam_search.DecoderSteps`), at fixed positions.

    The hypotheses of a clip share one cache, and a mask holds which words belong to each of them.
    So nothing is copied when hypotheses are dropped and continued, and vision and audio are stored
    once per clip. room: maximum number of words of a clip in all of its hypotheses.
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
        text = JointInput(
            kind=Kind.TEXT,
            features=parts[0].features[:, :0],  # no word yet
            mask=parts[0].mask[:, :0],
            room=self.captioner.max_words,
        )
        joint = self.captioner.joint
        inputs = [joint.embed(part, start) for part, start in with_starts([text, *parts])]
        x = torch.cat(inputs, dim=1)  # [B, n, D]
        self.valid = torch.cat([part.mask for part in parts], dim=1)  # [B, n]
        blocks = [ClipBlock(block) for block in model.text.transformer.resblocks]
        self.words = KeyValueCache(blocks, room)
        self.joint = KeyValueCache(joint.blocks(), x.shape[1] + room)
        self.joint.extend(x, never_empty(self.valid[:, None].expand(-1, x.shape[1], -1)))
        # bool [B, k, words of all hypotheses]: those of each hypothesis
        self.own_words = x.new_zeros(len(x), 1, 0, dtype=torch.bool)

    def logits(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """See `DecoderSteps`."""
        _, beams, length = tokens.shape
        self.own_words = with_newest(self.own_words, parents)
        features = self._text_features(tokens[..., -1], length - 1)  # [B, k, D]
        words = features.flatten(0, 1)[:, None]  # [B * k, 1, D]
        text = JointInput(
            Kind.TEXT, words, words.new_ones(words.shape[:2], dtype=torch.bool), room=1
        )
        x = self.captioner.joint.embed(text, length - 1).view(features.shape)
        of_clip = self.valid[:, None].expand(-1, beams, -1)  # [B, k, n]
        attend = torch.cat([of_clip, self.own_words], dim=-1)
        return self.captioner.head(self.joint.extend(x, attend))

    def _text_features(self, tokens: Tensor, position: int) -> Tensor:
        """Return the text tower's output [B, k, D] at one position of tokens [B, k]."""
        text = self.model.text
        x = text.token_embedding(tokens) + text.positional_embedding[position]
        if self.model.half_weights:  # as TextTransformer does before its first block
            x = x.to(text.text_projection.dtype)
        x = text.ln_final(self.words.extend(x, self.own_words)) @ text.text_projection
        return x.float() if self.model.half_weights else x

    def select(self, clips: Tensor) -> None:
        """See `DecoderSteps`."""
        self.valid, self.own_words = self.valid[clips], self.own_words[clips]
        self.words.select(clips)
        self.joint.select(clips)
