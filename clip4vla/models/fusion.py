"""Retrieval through the joint encoder: the trained fusion methods (facts 7.1, 7.2).

The paper's Global-Global needs no parameters: it is t_va of `similarity`. The others are here.
"""

import torch
from torch import Tensor, nn

from clip4vla.models.joint import JointEncoder, Kind, Part, clip_parts
from clip4vla.models.pooling import normalise

QUERIES_AT_ONCE = 8  # texts that are paired with every clip in one pass


class Fusion(nn.Module):
    """The joint encoder and, for the methods that score pairs, a linear similarity.

    `tight` and `local_to_local` pass every pair with all its padding, as training does; to score
    many pairs in evaluation, `pairs.score_pairs` gives the same numbers sooner.

    Arguments shared by the methods: vision [N, F, D], audio [N, S, D], un-normalised outputs of the
    towers; masks bool [N, F], [N, S]; None leaves a modality out.
    """

    def __init__(self, joint: JointEncoder, dim: int, max_words: int, max_frames: int):
        super().__init__()
        self.joint = joint
        self.similarity = nn.Linear(dim, 1)
        self.max_words = max_words
        self.max_frames = max_frames

    def global_to_local(
        self,
        vision: Tensor | None,
        vision_mask: Tensor | None,
        audio: Tensor | None,
        audio_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Let frames and segments read each other; gives both back, to be pooled and compared.

        The released name is loose_seq; it is behind the paper's best retrieval numbers.
        """
        parts = clip_parts(self.max_frames, vision, vision_mask, audio, audio_mask)
        mixed = dict(zip((part.kind for part in parts), self.joint(parts), strict=True))
        return mixed.get(Kind.VISION), mixed.get(Kind.AUDIO)

    def tight(
        self,
        text: Tensor,
        vision: Tensor | None,
        vision_mask: Tensor | None,
        audio: Tensor | None,
        audio_mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Score each pair of a text and a clip from [end token; frames; segments] (tight_seq).

        text: [Q, D], the end tokens. Gives [Q, N].
        """
        words = normalise(text).to(text.dtype)[:, None]  # [Q, 1, D]
        clip = clip_parts(self.max_frames, vision, vision_mask, audio, audio_mask)
        return self._pairs(words, words.new_ones(words.shape[:2]).bool(), 1, clip, scale)

    def local_to_local(
        self,
        text: Tensor,
        text_mask: Tensor,
        vision: Tensor | None,
        vision_mask: Tensor | None,
        audio: Tensor | None,
        audio_mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Score each pair from [every token; frames; segments] (cross_align).

        text: [Q, L, D]; text_mask: bool [Q, L]. Gives [Q, N].
        """
        clip = clip_parts(self.max_frames, vision, vision_mask, audio, audio_mask)
        return self._pairs(text, text_mask, self.max_words, clip, scale)

    def _pairs(
        self, text: Tensor, mask: Tensor, room: int, clip: list[Part], scale: float
    ) -> Tensor:
        clips = len(clip[0].features)
        rows = []
        blocks = zip(text.split(QUERIES_AT_ONCE), mask.split(QUERIES_AT_ONCE), strict=True)
        for words, words_mask in blocks:
            queries = len(words)
            words, words_mask = (x.repeat_interleave(clips, dim=0) for x in (words, words_mask))
            paired = [
                part._replace(
                    features=part.features.repeat(queries, 1, 1), mask=part.mask.repeat(queries, 1)
                )
                for part in clip
            ]
            first = self.joint([Part(Kind.TEXT, words, words_mask, room), *paired])[0][:, 0]
            pooled = self.joint.pooled(first)
            with torch.autocast(pooled.device.type, enabled=False):  # 16 bits would make ties
                scores = self.similarity(pooled.float())
            rows.append(scores.view(queries, clips))  # [queries, N]
        return scale * torch.cat(rows)
