"""A clip's log-mel -> standardised segments: the audio tower's images (facts 1.4-1.6)."""

import math

import numpy as np
import torch

from clip4vla.config.run import Inputs
from clip4vla.features.masking import FILL_DB, Masks

SEGMENT = 224  # spectrogram frames of a segment: 1.792 s at a hop of 8 ms
EPSILON = 1e-10


def segment_count(steps: int, extra_segment: bool = False) -> int:
    """Segments of a clip of T = `steps` frames: ceil(T / 224), or floor(T / 224) + 1 (D5)."""
    return steps // SEGMENT + 1 if extra_segment else -(-steps // SEGMENT)


def split(
    log_mel: np.ndarray | torch.Tensor, inputs: Inputs, masks: Masks | None = None
) -> torch.Tensor:
    """float32 [S, C, 224, 224] of a log-mel in dB [C, T, 224], S <= inputs.max_segments.

    The central segments are kept. Masks are laid over the spectrogram before it is padded. Each
    segment and channel is brought to mean 0 and (population) standard deviation 1 over its own
    values, padding included; a constant one becomes zeros. C is 1 for mono, which stands for three
    equal channels: the audio tower expands it.
    """
    log_mel = torch.as_tensor(log_mel)  # [C, T, 224]
    channels, steps, bands = log_mel.shape
    count = segment_count(steps, inputs.extra_segment)
    first = max((count - inputs.max_segments) // 2, 0)
    count = min(count, inputs.max_segments)
    kept = slice(first * SEGMENT, min((first + count) * SEGMENT, steps))
    rows = log_mel[:, kept].float()  # only the kept segments are ever converted
    if masks is not None:
        hidden = torch.from_numpy(masks.steps[kept, None] | masks.bands[None, :])  # [t, 224]
        rows = rows.masked_fill(hidden, FILL_DB)
    padding = rows.new_zeros(channels, count * SEGMENT - rows.shape[1], bands)
    if inputs.pad_value == "min":
        padding += log_mel.amin(dim=(1, 2), keepdim=True)
    images = torch.cat((rows, padding), dim=1).view(channels, count, SEGMENT, bands)
    return standardise(images.transpose(0, 1))


def standardise(images: torch.Tensor) -> torch.Tensor:
    """(x - mean) / (std + 1e-10) of every image of [S, C, H, W], with the population's std.

    Every image is first shifted by its own first value. That changes nothing but makes a constant
    image exactly zero: rounding in its mean would otherwise be blown up to values around 1.
    """
    images = images - images[..., :1, :1]
    images -= images.flatten(-2).mean(-1)[..., None, None]
    # One pass, a norm of norms of rows: torch.var_mean takes fifteen times as long.
    norm = torch.linalg.vector_norm(torch.linalg.vector_norm(images, dim=-1), dim=-1)
    deviation = norm / math.sqrt(images.shape[-2] * images.shape[-1])
    return images.div_((deviation + EPSILON)[..., None, None])
