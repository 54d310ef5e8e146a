"""Classification by a probe on features of frozen towers (facts 9)."""

from typing import Any

import torch
from torch import Tensor

from clip4vla.common.device import to_device
from clip4vla.inference.features import ClipFeatures
from clip4vla.models.common.task import Batch


def probe_batch(features: ClipFeatures, index: Tensor | slice = slice(None)) -> Batch:
    """Return a batch that brings its features along, of the B clips of `index`.

    features [N, D]: made with `reduce=masked_mean`. A mean is a sequence of one position [B, 1, D];
    its mask bool [B, 1] says whether the clip has the modality.
    """
    audible = features.heard[index].unsqueeze(1)
    means = {"vision": features.vision, "audio": features.audio}
    return {
        "features": {name: x[index].unsqueeze(1) for name, x in means.items() if x is not None},
        "frame_mask": torch.ones_like(audible),
        "audio_mask": audible,
    }


@torch.no_grad()
def predict(
    model: Any, features: ClipFeatures, classes: list[str], device: torch.device
) -> list[str]:
    """Return the likeliest class of every clip."""
    model.probe.eval()
    encoded = model.encode_clips(to_device(probe_batch(features), device), ())
    return [classes[i] for i in model.probe(encoded).argmax(dim=1).tolist()]
