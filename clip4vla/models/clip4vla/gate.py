"""Gates: learned weights of vision against audio in a similarity (facts 7.1)."""

import torch
from torch import Tensor, nn

from clip4vla.models.clip4vla.settings import GateKind
from clip4vla.models.common.similarity import similarities

DROPOUT = 0.1  # on what the weights are computed from, while training


class Gate(nn.Module):
    """Weighs a clip's vision and audio: by the clip itself (feat2...) or by the text (query2...).

    ...2feat weighs the pooled vectors, which are not normalised again, and ...2sim the similarities
    of these. A similarity is linear in the clip's vector, so the two are one function, computed
    here in the second way, in which the weights of the text need no vector per pair.

    Dropout draws from torch's global generator: seed it per step.
    """

    def __init__(self, kind: GateKind, dim: int):
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(dim if self.by_text else 2 * dim, 2)

    @property
    def by_text(self) -> bool:
        """Whether the text decides, not the clip."""
        return self.kind.startswith("query")

    def weights(self, text: Tensor, vision: Tensor, audio: Tensor) -> Tensor:
        """Weights of vision and audio, which sum to 1: [Q, 2] (query2...) or [N, 2] (feat2...).

        text: [Q, D] from `normalise`; vision, audio: [N, D] from `pool`.
        """
        judged = text if self.by_text else torch.cat([vision, audio], dim=-1)
        return self.linear(self.dropout(judged)).float().softmax(dim=-1)

    def forward(
        self,
        text: Tensor,
        vision: Tensor | None,
        audio: Tensor | None,
        scale: float | Tensor,
        has_audio: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As `similarities`, with the gate's weights in t_va: float32 [Q, N] each.

        With one modality there is nothing to weigh. has_audio: bool [N]; where it is false t_va is
        t_v. If it is None, or true for a clip whose audio is fully masked, the audio's share of the
        weight counts as similarity 0, as in the released code.
        """
        result = similarities(text, vision, audio, scale)
        if vision is not None and audio is not None:
            seen, heard = self.weights(text, vision, audio).unbind(dim=-1)
            if self.by_text:
                seen, heard = seen[:, None], heard[:, None]  # [Q, 1]; else [N] are columns
            both = seen * result["t_v"] + heard * result["t_a"]
            result["t_va"] = both if has_audio is None else both.where(has_audio, result["t_v"])
        return result
