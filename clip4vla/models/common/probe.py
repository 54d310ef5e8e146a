"""The linear probe of classification (facts 9; paper, Table 6)."""

import torch
from torch import Tensor, nn

from clip4vla.models.common.pooling import masked_mean


class Probe(nn.Module):
    """LayerNorm and Linear on the mean of the un-normalised features."""

    def __init__(self, dim: int, n_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, n_classes)

    def forward(
        self,
        vision: Tensor | None,
        vision_mask: Tensor | None,
        audio: Tensor | None,
        audio_mask: Tensor | None,
    ) -> Tensor:
        """Logits of the classes.

        vision [B, F, D], audio [B, S, D], masks bool [B, F], [B, S]; None leaves a modality out.
        A clip uses the average of the modalities it has: a silent clip its vision alone. Gives
        [B, n_classes]; a clip with nothing valid is judged on a zero feature.
        """
        given = [(vision, vision_mask), (audio, audio_mask)]
        given = [(features, mask) for features, mask in given if features is not None]
        means = torch.stack([masked_mean(*pair) for pair in given], dim=1)  # [B, modalities, D]
        present = torch.stack([mask.any(dim=1) for _, mask in given], dim=1)
        return self.linear(self.norm(masked_mean(means, present)))
