"""Classes of clips by a probe on their features (facts 9)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from clip4vla.common.device import in_float32, to_device
from clip4vla.inference.features import ClipFeatures
from clip4vla.models.common.probe import probed
from clip4vla.models.common.task import Batch


def probe_batch(features: ClipFeatures, index: Tensor | slice = slice(None)) -> Batch:
    """Return a batch that brings its features along, of the B clips of `index`.

    features: made with `reduce=masked_mean`. See `clip4vla.models.common.probe.probed`.
    """

    def chosen(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[index].unsqueeze(1) for name, x in named.items()}

    return {"means": chosen(features.vectors), "present": chosen(features.present)}


@torch.no_grad()
def class_logits(model: Any, features: ClipFeatures, device: torch.device) -> Tensor:
    """Return the logits of every class, float32 [N, C] on the CPU."""
    model.probe.eval()
    encoded = probed(model, to_device(probe_batch(features), device), ())
    with in_float32(device):  # rounded logits would tie
        logits: Tensor = model.probe(encoded)
    return logits.float().cpu()


def mean_over_frames(logits: Tensor, several: bool) -> Tensor:
    """Return logits [N, C] of the mean probability of K evaluations, from their logits [K, N, C].

    several: of classes that do not exclude each other (sigmoid), otherwise of softmax.
    """
    logits = logits.double()
    if several:
        yes, no = (logsigmoid(sign * logits).logsumexp(dim=0) for sign in (1, -1))
        return (yes - no).float()
    return (logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))).float()


def predict(
    model: Any, features: ClipFeatures, classes: list[str], device: torch.device
) -> list[str]:
    """Return the likeliest class of every clip."""
    return [classes[i] for i in class_logits(model, features, device).argmax(dim=1).tolist()]
