"""The caption generator: a joint encoder with a sequence-to-sequence mask (facts 8.1)."""

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn.functional import linear

from clip4vla.common.device import full_precision
from clip4vla.loading.tokens import VOCABULARY
from clip4vla.models.clip4vla.joint import JointEncoder, Kind, Part, clip_parts
from clip4vla.models.common.encoded import Encoded

AT_ONCE = 2048  # words: a part of the embedding that a CPU multiplies at its best speed


class VocabularyHead(nn.Module):
    """Linear, QuickGELU, LayerNorm, then the transposed token embedding (tied) and a bias."""

    def __init__(self, dim: int, token_embedding: nn.Embedding):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.activation = QuickGELU()
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.token_embedding = token_embedding  # the text tower's own: shared, saved once
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to logits [..., V]; without gradients these are float32, also under autocast.

        Words of a caption are chosen by them, and in bfloat16 likely words would tie.
        """
        x = self.norm(self.activation(self.dense(x)))
        weight = self.token_embedding.weight
        if torch.is_grad_enabled():
            return linear(x, weight, self.bias)
        with full_precision(x):
            return self._exact(x.to(weight.dtype), weight)

    def _exact(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return linear(x, weight, self.bias)
        # The few rows of a decoding step: one product over all words takes half as long again.
        parts = zip(weight.split(AT_ONCE), self.bias.split(AT_ONCE), strict=True)
        return torch.cat([linear(x, words, bias) for words, bias in parts], dim=-1)


class CaptionGenerator(nn.Module):
    """Predicts the next token of a caption from its words so far, the frames and the sound.

    Text has the first `max_words` positions, vision the next `max_frames` (none in a run without
    vision) and audio the rest, whatever the lengths in a batch are. So a caption does not depend on
    the clips it is batched with, and decoding sees the positions of training (unless told to shift
    them as the released decoder does, facts 8.3).
    """

    def __init__(self, joint: JointEncoder, head: VocabularyHead, max_words: int, max_frames: int):
        super().__init__()
        self.joint = joint
        self.head = head
        self.max_words = max_words
        self.max_frames = max_frames

    def forward(
        self,
        token_features: Tensor,
        token_mask: Tensor,
        clip: Encoded,
    ) -> Tensor:
        """Logits of the token that follows each given one.

        token_features: [B, L, D], every position of the text tower; token_mask: bool [B, L]; clip:
        vision [B, F, D], audio [B, S, D], or one of them. Gives [B, L, V].
        """
        return self.head(self.hidden(token_features, token_mask, clip))

    def hidden(
        self,
        token_features: Tensor,
        token_mask: Tensor,
        clip: Encoded,
        words_room: int | None = None,
    ) -> Tensor:
        """The joint encoder's output at the text positions, before the head: [B, L, D].

        words_room: positions kept for text; `max_words`, as in training, if None.
        """
        room = self.max_words if words_room is None else words_room
        parts = [
            Part(Kind.TEXT, token_features, token_mask, room),
            *clip_parts(self.max_frames, clip),
        ]
        length = sum(part.mask.shape[1] for part in parts)
        reads = seq2seq_mask(token_mask.shape[1], length, token_mask.device)
        return self.joint(parts, reads)[0]


def seq2seq_mask(words: int, length: int, device: torch.device | None = None) -> Tensor:
    """Who may read whom, before padding: bool [length, length], rows read columns.

    The first `words` positions are text: each reads itself, the words before it and all that is
    seen and heard. What is seen and heard reads itself, never the text.
    """
    index = torch.arange(length, device=device)
    is_text = index < words
    causal = index[None, :] <= index[:, None]
    return ~is_text[None, :] | (is_text[:, None] & causal)
