"""Classification by a probe on features of frozen towers (facts 9)."""

import torch
from torch import Tensor

from clip4vla.inference.features import ClipFeatures
from clip4vla.models.common.probe import Probe


def probe_inputs(features: ClipFeatures, index: Tensor | slice = slice(None)) -> tuple:
    """What `Probe.forward` takes, from features [N, D] made with `reduce=masked_mean`.

    A mean is a sequence of one position; its mask says whether the clip has the modality: vision
    and audio [B, 1, D], masks bool [B, 1], of the B clips of `index`; None for what is not there.
    """
    vision = audio = seen = heard = None
    if features.vision is not None:
        vision = features.vision[index].unsqueeze(1)  # [B, 1, D]
        seen = torch.ones(vision.shape[:2], dtype=torch.bool)  # [B, 1]
    if features.audio is not None:
        audio = features.audio[index].unsqueeze(1)  # [B, 1, D]
        heard = features.heard[index].unsqueeze(1)  # [B, 1]
    return vision, seen, audio, heard


@torch.no_grad()
def predict(probe: Probe, features: ClipFeatures, classes: list[str], device) -> list[str]:
    """The likeliest class of every clip."""
    probe.eval()
    given = [None if x is None else x.to(device) for x in probe_inputs(features)]
    return [classes[i] for i in probe(*given).argmax(dim=1).tolist()]
