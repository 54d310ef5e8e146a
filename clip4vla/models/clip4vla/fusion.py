"""Retrieval through the joint encoder: the trained fusion methods (facts 7.1, 7.2).

The paper's Global-Global has no parameters: it is t_va of `similarity`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip4vla.common.device import full_precision
from clip4vla.models.clip4vla.joint import JointEncoder, JointInput, Kind, clip_parts
from clip4vla.models.clip4vla.settings import MixingFusion
from clip4vla.models.common.encoded import Encoded, FeatureSequence
from clip4vla.models.common.pooling import normalise

PAIRS_AT_ONCE = 256  # in one pass: 2.6 GB of graph at 60 positions of width 512, in float32


class Fusion(nn.Module):
    """The joint encoder and, for the methods that score pairs, a linear similarity.

    `tight` and `local_to_local` encode every pair with all of its padding, as in training; for many
    pairs in evaluation, `pair_scoring.score_pairs` computes the same numbers faster.

    Clips are those of `CLIP4VLA.encode_clips`: vision [N, F, D], audio [N, S, D].
    """

    def __init__(self, joint: JointEncoder, dim: int, max_words: int, max_frames: int):
        super().__init__()
        self.joint = joint
        self.similarity = nn.Linear(dim, 1)
        self.max_words = max_words
        self.max_frames = max_frames

    def global_to_local(self, encoded: Encoded) -> Encoded:
        """Let frames and segments attend to each other; return both, for pooling and comparison.

        [N, F, D] and [N, S, D]. The released code calls it loose_seq and uses it for the paper's
        best retrieval numbers.
        """
        parts = clip_parts(self.max_frames, encoded)
        mixed = zip(parts, self.joint(parts), strict=True)
        return {part.kind.name.lower(): FeatureSequence(x, part.mask) for part, x in mixed}

    def temporal(self, encoded: Encoded) -> Encoded:
        """Let frames attend to each other, with a residual: CLIP4Clip's seqTransf, a baseline.

        The type embedding, one vector for all frames, is an addition of ours. Audio is unchanged.
        """
        vision, mask = encoded["vision"]
        mixed = self.global_to_local({"vision": encoded["vision"]})["vision"].features
        return encoded | {"vision": FeatureSequence(vision + mixed, mask)}

    def mix(self, fusion: MixingFusion) -> Callable[[Encoded], Encoded]:
        """Return the method of that name, which maps encoded clips to those that are pooled."""
        return {"global_to_local": self.global_to_local, "temporal": self.temporal}[fusion]

    def tight(
        self,
        text: Tensor,
        clip: Encoded,
        scale: float | Tensor,
    ) -> Tensor:
        """Score each pair of a text and a clip from [end token; frames; segments] (tight_seq).

        text: [Q, D], the end tokens. Returns [Q, N].
        """
        words = normalise(text).to(text.dtype)[:, None]  # [Q, 1, D]
        mask = words.new_ones(words.shape[:2]).bool()
        return self._pairs(words, mask, 1, clip_parts(self.max_frames, clip), scale)

    def local_to_local(
        self,
        text: Tensor,
        text_mask: Tensor,
        clip: Encoded,
        scale: float | Tensor,
    ) -> Tensor:
        """Score each pair from [every token; frames; segments] (cross_align).

        text: [Q, L, D]; text_mask: bool [Q, L]. Returns [Q, N].
        """
        parts = clip_parts(self.max_frames, clip)
        return self._pairs(text, text_mask, self.max_words, parts, scale)

    def _pairs(
        self, text: Tensor, mask: Tensor, room: int, clip: list[JointInput], scale: float | Tensor
    ) -> Tensor:
        """Score all pairs in blocks: [Q, N].

        In training each block is recomputed in the backward pass: the activations of all pairs of
        a batch would exceed any memory.
        """
        texts, clips = len(text), len(clip[0].features)
        score = self._score
        if torch.is_grad_enabled() and texts * clips > PAIRS_AT_ONCE:
            score = partial(checkpoint, self._score, use_reentrant=False)
        queries = max(1, PAIRS_AT_ONCE // clips)
        columns = [slice(i, i + PAIRS_AT_ONCE) for i in range(0, clips, PAIRS_AT_ONCE)]
        rows = []
        for words, words_mask in zip(text.split(queries), mask.split(queries), strict=True):
            part = JointInput(Kind.TEXT, words, words_mask, room)
            rows.append(torch.cat([score(part, _rows(clip, block)) for block in columns], dim=1))
        return scale * torch.cat(rows)

    def _score(self, text: JointInput, clip: list[JointInput]) -> Tensor:
        """Score every text with every clip in one pass: [Q, N]."""
        queries, clips = len(text.features), len(clip[0].features)
        words, words_mask = (x.repeat_interleave(clips, dim=0) for x in (text.features, text.mask))
        paired = [
            part._replace(
                features=part.features.repeat(queries, 1, 1), mask=part.mask.repeat(queries, 1)
            )
            for part in clip
        ]
        text = text._replace(features=words, mask=words_mask)
        pooled = self.joint.pooled(self.joint([text, *paired])[0][:, 0])
        with full_precision(pooled):  # 16 bits would cause ties
            scores = self.similarity(pooled.float())
        return scores.view(queries, clips)


def _rows(clip: list[JointInput], rows: slice) -> list[JointInput]:
    return [part._replace(features=part.features[rows], mask=part.mask[rows]) for part in clip]
