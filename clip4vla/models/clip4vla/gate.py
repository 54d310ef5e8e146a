"""Gates: learned weights of vision and audio in a similarity (facts 7.1)."""

import torch
from torch import Tensor, nn

from clip4vla.models.clip4vla.settings import GateKind
from clip4vla.models.common.similarity import similarities

DROPOUT = 0.1  # on the input of the gate, while training


class Gate(nn.Module):
    """Weights of a clip's vision and audio, from the clip (feat2...) or the text (query2...).

    ...2feat weights the pooled vectors, without normalising the sum, and ...2sim their
    similarities. A similarity is linear in the clip's vector, so both are the same function. Here
    similarities are weighted, because then weights from the text need no vector per pair.

    Dropout draws from torch's global generator: seed it per step.
    """

    def __init__(self, kind: GateKind, dim: int):
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(dim if self.by_text else 2 * dim, 2)

    @property
    def by_text(self) -> bool:
        """Return whether the weights depend on the text, not on the clip."""
        return self.kind.startswith("query")

    def weights(self, text: Tensor, vision: Tensor, audio: Tensor) -> Tensor:
        """Return the weights of vision and audio, with sum 1: [Q, 2] (query2...) or [N, 2].

        text: [Q, D] from `normalise`; vision, audio: [N, D] from `pool`.
        """
        x = text if self.by_text else torch.cat([vision, audio], dim=-1)
        return self.linear(self.dropout(x)).float().softmax(dim=-1)

    def forward(
        self,
        text: Tensor,
        vision: Tensor | None,
        audio: Tensor | None,
        scale: float | Tensor,
        has_audio: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `similarities` with the gate's weights in t_va: float32 [Q, N] each.

        With one modality there is no t_va. has_audio: bool [N]; where it is false, t_va is t_v. If
        it is None, or true for a clip whose audio is fully masked, audio contributes similarity 0
        with its weight, as in the released code.
        """
        result = similarities(text, vision, audio, scale)
        if vision is not None and audio is not None:
            weights = self.weights(text, vision, audio)
            if self.by_text:
                weights = weights[:, None]  # [Q, 1, 2]; otherwise [N, 2] are columns
            both = weights[..., 0] * result["t_v"] + weights[..., 1] * result["t_a"]
            result["t_va"] = both if has_audio is None else both.where(has_audio, result["t_v"])
        return result
