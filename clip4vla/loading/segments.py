"""A clip's log-mel -> standardised segments, which are images to a model (facts 1.4-1.6)."""

import math

import numpy as np
import torch

from clip4vla.config.sections import Inputs
from clip4vla.loading.masking import FILL, Masks
from clip4vla.loading.segment_counts import kept_segments, segment_count

EPSILON = 1e-10


def drawn_start(steps: int, inputs: Inputs, rng: np.random.Generator) -> int | None:
    """Return the first step of a window of max_segments segments; None: all segments are kept."""
    left_out = steps - inputs.max_segments * inputs.segment_steps
    return None if left_out <= 0 else int(rng.integers(left_out + 1))


def split(
    log_mel: np.ndarray | torch.Tensor,
    inputs: Inputs,
    masks: Masks | None = None,
    out: torch.Tensor | None = None,
    start: int | None = None,
) -> torch.Tensor:
    """Return standardised segments, float32 [S, C, N, M], of a log-mel [C, T, M]; see `cut`.

    `inputs.standardisation` says how:

    * `segment`: each segment and channel to mean 0 and (population) standard deviation 1 over its
      own values, masks and padding included; a constant one becomes zeros.
    * `clip`: each channel by mean and deviation of the whole clip's own values: masked cells count
      as they were, padding does not count. A constant clip becomes zeros.
    * `fixed`: by the given mean and deviation.

    C is 1 for mono, which stands for three equal channels.
    """
    log_mel = torch.as_tensor(log_mel)  # [C, T, M]
    if out is None:
        shape = len(log_mel), inputs.segment_steps, log_mel.shape[2]
        out = torch.empty(kept_segments(log_mel.shape[1], inputs), *shape)
    images = cut(log_mel, inputs, out, masks, start)
    match inputs.standardisation:
        case "segment":
            return standardise(images)
        case "clip":
            return standardise(images, log_mel.float())
        case "fixed":
            mean, deviation = inputs.log_mel_mean, inputs.log_mel_std
            assert mean is not None and deviation is not None, "checked by the config"
            return images.sub_(mean).div_(deviation)


def cut(
    log_mel: torch.Tensor,
    inputs: Inputs,
    out: torch.Tensor,
    masks: Masks | None = None,
    start: int | None = None,
) -> torch.Tensor:
    """Return the segments [S, C, N, M] of a log-mel [C, T, M], as it is, in `out`.

    N is inputs.segment_steps and S at most inputs.max_segments. The segments from step `start` on
    are kept; None: the central ones. Masks are laid over the log-mel before it is padded.
    """
    length, count = inputs.segment_steps, kept_segments(log_mel.shape[1], inputs)
    kept = _kept_steps(log_mel.shape[1], inputs, start)
    whole, rest = divmod(kept.stop - kept.start, length)  # segments, frames of one more
    own = log_mel[:, kept]
    out[:whole] = own[:, : whole * length].unflatten(1, (whole, length)).transpose(0, 1)
    if whole < count:
        out[whole, :, :rest] = own[:, whole * length :]
    if masks is not None:
        hidden = torch.from_numpy(np.flatnonzero(masks.steps[kept]))
        segments, rows = hidden // length, hidden % length
        out[segments, :, rows] = FILL
        out.index_fill_(3, torch.from_numpy(np.flatnonzero(masks.bands)), FILL)
    if whole < count:
        padding = log_mel.amin(dim=(1, 2))[:, None, None] if inputs.pad_value == "min" else 0.0
        out[whole, :, rest:] = padding
    return out


def place_steps(
    values: np.ndarray, inputs: Inputs, out: torch.Tensor, start: int | None = None
) -> None:
    """Write bool [T], one for each step of a log-mel, to where `cut` puts the steps.

    out: bool [S, N], segments that nothing fills included; False where there is padding.
    """
    kept = values[_kept_steps(len(values), inputs, start)]
    flat = out.view(-1)
    flat[: len(kept)] = torch.from_numpy(kept)
    flat[len(kept) :] = False


def _kept_steps(steps: int, inputs: Inputs, start: int | None) -> slice:
    """Return the steps of a log-mel that its segments hold; see `cut`."""
    count = kept_segments(steps, inputs)
    if start is None:
        start = (segment_count(steps, inputs) - count) // 2 * inputs.segment_steps
    return slice(start, min(start + count * inputs.segment_steps, steps))


def standardise(images: torch.Tensor, clip: torch.Tensor | None = None) -> torch.Tensor:
    """Set images [S, C, H, W] to (x - mean) / (std + 1e-10), with the population's std.

    The statistics are those of every image, or of every channel of the `clip` [C, T, W]. Values are
    first shifted by the first of them: that changes nothing but makes constant ones exactly zero,
    where rounding in their mean would otherwise be blown up to values around 1.
    """
    shift = (images if clip is None else clip)[..., :1, :1].clone()
    images -= shift
    values = images if clip is None else clip - shift  # [S, C, H, W] or [C, T, W]
    mean = _mean(values.flatten(-2))[..., None, None]
    values -= mean
    if clip is not None:
        images -= mean
    # One pass, a norm of norms of rows: torch.var_mean takes fifteen times as long.
    norm = torch.linalg.vector_norm(torch.linalg.vector_norm(values, dim=-1), dim=-1)
    deviation = norm / math.sqrt(values.shape[-2] * values.shape[-1])
    return images.div_((deviation + EPSILON)[..., None, None])


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Return means over the last dimension, the same for any number of threads.

    A sum that is alone would be shared among threads, which changes its last bits; two are dealt
    to them whole.
    """
    if rows.numel() == rows.shape[-1]:
        return rows.expand(2, *rows.shape).mean(-1)[0]
    return rows.mean(-1)
