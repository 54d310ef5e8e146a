"""The caption generator: a joint encoder with a sequence-to-sequence mask (facts 8.1)."""

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from clip4vla.loading.tokens import VOCABULARY
from clip4vla.models.clip4vla.joint import JointEncoder, JointInput, Kind, clip_parts
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.tied_logits import tied_logits


class VocabularyHead(nn.Module):
    """Linear, QuickGELU, LayerNorm, then the transposed token embedding (tied) and a bias."""

    def __init__(self, dim: int, token_embedding: nn.Embedding):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.activation = QuickGELU()
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.token_embedding = token_embedding  # of the text tower: shared, saved once
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [..., V] of [..., D]; see `tied_logits`."""
        x = self.norm(self.activation(self.dense(x)))
        return tied_logits(x, self.token_embedding.weight, self.bias, self.training)


class CaptionGenerator(nn.Module):
    """A model of the next token of a caption, given its words so far, the frames and the audio.

    Text has the first `max_words` positions, vision the next `max_frames` (none in a run without
    vision) and audio the rest, whatever the lengths in a batch are. So a caption does not depend on
    the other clips of its batch, and decoding uses the positions of training (unless it shifts them
    as the released decoder does, facts 8.3).
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
        """Return the logits [B, L, V] of the token after each position.

        token_features: [B, L, D], every position of the text tower; token_mask: bool [B, L]; clip:
        vision [B, F, D], audio [B, S, D], or one of them.
        """
        return self.head(self.hidden(token_features, token_mask, clip))

    def hidden(
        self,
        token_features: Tensor,
        token_mask: Tensor,
        clip: Encoded,
        words_room: int | None = None,
    ) -> Tensor:
        """Return the joint encoder's output at the text positions, before the head: [B, L, D].

        words_room: positions reserved for text; None: `max_words`, as in training.
        """
        room = self.max_words if words_room is None else words_room
        parts = [
            JointInput(Kind.TEXT, token_features, token_mask, room),
            *clip_parts(self.max_frames, clip),
        ]
        length = sum(part.mask.shape[1] for part in parts)
        attend = seq2seq_mask(token_mask.shape[1], length, token_mask.device)
        return self.joint(parts, attend)[0]


def seq2seq_mask(words: int, length: int, device: torch.device | None = None) -> Tensor:
    """Return the attention mask without padding: bool [length, length], rows attend to columns.

    The first `words` positions are text: each attends to itself, to earlier words and to vision
    and audio. Vision and audio attend to each other, never to text.
    """
    index = torch.arange(length, device=device)
    is_text = index < words
    causal = index[None, :] <= index[:, None]
    return ~is_text[None, :] | (is_text[:, None] & causal)
