"""Classes of clips by a probe on their features (facts 9)."""

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
def class_logits(model: Any, features: ClipFeatures, device: torch.device) -> Tensor:
    """Return the logits of every class, float32 [N, C] on the CPU."""
    model.probe.eval()
    encoded = model.encode_clips(to_device(probe_batch(features), device), ())
    logits: Tensor = model.probe(encoded)
    return logits.float().cpu()


def predict(
    model: Any, features: ClipFeatures, classes: list[str], device: torch.device
) -> list[str]:
    """Return the likeliest class of every clip."""
    return [classes[i] for i in class_logits(model, features, device).argmax(dim=1).tolist()]
