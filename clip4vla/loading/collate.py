"""Samples -> the tensors of a batch, each decoded straight into its place."""

from collections.abc import Callable

import numpy as np
import torch

from clip4vla.cache.frames import to_pixels
from clip4vla.common.errors import UserError
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.sections import Inputs
from clip4vla.loading.masking import Masks
from clip4vla.loading.samples import Mixed, Sample
from clip4vla.loading.segment_counts import kept_segments
from clip4vla.loading.segments import cut, place_steps, split
from clip4vla.loading.tokenizer import tokenize

STEPS_OF: dict[str, Callable[[Masks], np.ndarray]] = {  # bool [T], by its name in a batch
    "masked_steps": lambda masks: masks.steps,
    "own_steps": lambda masks: np.ones_like(masks.steps),
}


def collate(
    samples: list[Sample],
    tokenize: Callable[[list[str], int], torch.Tensor] = tokenize,
    raw_sound: bool = False,
) -> dict:
    """Return a batch of samples.

    frames uint8 [B, F, 3, 224, 224], audio [B, S, C, N, M], tokens [B, L]. N is
    inputs.segment_steps, M the mel bands of the cache. F and S are the batch's own maximum, at
    least 1; C is 1 when every clip is mono, which stands for three
    equal channels, else 3. `frame_mask` [B, F] and `audio_mask` [B, S] are True where a sample has
    content; the rest is zero. Padding changes no sample's own values.

    With masks there is `masked_audio`, shaped like `audio`; where vectors stand in place of frames
    (`clip4vla.cache.vectors`), these [B, D]. Also `has_audio` and `nonverbal_share` [B], and the
    lists `clip_id`, `caption` and `labels`. If a sample is mixed with another clip, there are also
    the share that each one keeps, `share` float64 [B], and the `mixed_labels` of the others.

    raw_sound: leave float16 log-mels as they are where each segment has statistics of its own,
    for a model that standardises them; else audio is standardised, float32. In place of the masked
    copy of raw sound there are its masks (`clip4vla.loading.masking.masked`): `masked_steps` and
    `masked_bands`, bool [B, S, N] and [B, M], and the `own_steps` that are not padding.

    Raises UserError that names the clip whose cached content is corrupt.
    """
    shares = np.array([sample.nonverbal_share for sample in samples], dtype=np.float32)
    captions = [sample.caption for sample in samples]
    batch = {
        "clip_id": [sample.clip_id for sample in samples],
        "caption": captions,
        "labels": [sample.labels for sample in samples],
        "tokens": tokenize(captions, samples[0].inputs.caption_tokens),
        "has_audio": torch.tensor([sample.has_audio for sample in samples]),
        "nonverbal_share": torch.from_numpy(shares),
    }
    for name in samples[0].vectors:
        batch[name] = torch.stack([sample.vectors[name] for sample in samples])
    return batch | mixtures(samples) | _frames(samples) | _audio(samples, raw_sound)


def mixtures(samples: list[Sample]) -> dict:
    """Return the part of a batch about clips that are mixed in: nothing if none is."""
    if not any(sample.mixed for sample in samples):
        return {}
    mixed = [sample.mixed for sample in samples]
    shares = [other.share if other else 1.0 for other in mixed]
    return {
        "share": torch.tensor(shares, dtype=torch.float64),
        "mixed_labels": [other.labels if other else () for other in mixed],
    }


def _frames(samples: list[Sample]) -> dict:
    jpegs_of = [sample.jpegs for sample in samples if sample.jpegs is not None]
    if not jpegs_of:
        return {}
    counts = [len(jpegs) for jpegs in jpegs_of]
    frames = np.empty((len(samples), max(*counts, 1), 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for row, jpegs, sample in zip(frames, jpegs_of, samples, strict=True):
        for frame, jpeg in zip(row, jpegs, strict=False):
            # colours to the front: numpy is faster than torch
            frame[...] = _pixels(jpeg, sample.clip_id)
        if sample.mixed:
            _mix_frames(row[: len(jpegs)], sample.mixed)
        row[len(jpegs) :] = 0
    return {"frames": torch.from_numpy(frames), "frame_mask": _filled(counts)}


def _pixels(jpeg: bytearray, clip_id: str) -> torch.Tensor:
    try:
        return to_pixels(jpeg)
    except OSError as error:
        raise _broken(clip_id, "a frame is a truncated JPEG") from error


def _mix_frames(frames: np.ndarray, other: Mixed) -> None:
    """Mix the frames of another clip into uint8 [F, 3, H, W], each at the same part of its clip.

    Shares add up to 1, so mixing bytes is mixing what they are normalised to, up to rounding.
    """
    for number, frame in enumerate(frames if other.jpegs else ()):
        jpeg = other.jpegs[number * len(other.jpegs) // len(frames)]
        pixels = _pixels(jpeg, other.clip_id).numpy()
        frame[...] = np.rint(other.share * frame + (1.0 - other.share) * pixels)


def _audio(samples: list[Sample], raw: bool) -> dict:
    heard = [sample.log_mel for sample in samples if sample.log_mel is not None]
    channels = max((len(log_mel) for log_mel in heard), default=1)
    counts = [
        0 if sample.log_mel is None else kept_segments(sample.log_mel.shape[1], sample.inputs)
        for sample in samples
    ]
    size = samples[0].inputs.segment_steps, samples[0].bands
    shape = len(samples), max(*counts, 1), channels, *size
    raw = raw and samples[0].inputs.standardisation == "segment"
    raw = raw and all(log_mel.dtype is torch.float16 for log_mel in heard)
    dtype = torch.float16 if raw else torch.float32
    batch = {"audio": torch.empty(shape, dtype=dtype), "audio_mask": _filled(counts)}
    if raw and samples[0].masks is not None:
        batch |= _masks(samples, shape)
    elif samples[0].masks is not None:
        batch["masked_audio"] = torch.empty(shape, dtype=dtype)
    for place, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        _fill(batch["audio"][place], count, sample)
        if "masked_audio" in batch:
            _fill(batch["masked_audio"][place], count, sample, sample.masks)
        if count and not _is_finite(batch["audio"][place, :count], raw, sample.inputs):
            raise _broken(sample.clip_id, "its log-mel holds NaN or infinity")
    return batch


def _masks(samples: list[Sample], shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the masks of a batch whose sound has a shape [B, S, C, N, M]."""
    size, segments, _, steps, bands = shape
    batch = {name: torch.empty(size, segments, steps, dtype=torch.bool) for name in STEPS_OF}
    batch["masked_bands"] = torch.empty(size, bands, dtype=torch.bool)
    for place, sample in enumerate(samples):
        assert sample.masks is not None
        for name, steps_of in STEPS_OF.items():
            place_steps(steps_of(sample.masks), sample.inputs, batch[name][place], sample.start)
        batch["masked_bands"][place] = torch.from_numpy(sample.masks.bands)
    return batch


def _fill(row: torch.Tensor, count: int, sample: Sample, masks: Masks | None = None) -> None:
    """Write the sample's `count` segments into a row [S, C, N, M], and zeros after them."""
    log_mel = sample.log_mel
    if count and log_mel is not None:
        own = row[:count, : len(log_mel)]
        write = cut if own.dtype is torch.float16 else split
        write(log_mel, sample.inputs, masks=masks, out=own, start=sample.start)
        row[:count, len(log_mel) :] = own[:, :1]  # a mono clip among stereo ones
    row[count:] = 0


def _filled(counts: list[int]) -> torch.Tensor:
    """Return bool [B, N]: where each row has content; N is the largest count, at least 1."""
    return torch.arange(max(*counts, 1)) < torch.tensor(counts)[:, None]


def _is_finite(images: torch.Tensor, raw: bool, inputs: Inputs) -> bool:
    """Return whether all that a sample takes from a log-mel is finite.

    One NaN or infinity in the statistics of an image makes all of its values NaN: looking at one of
    each is enough. Raw values and fixed statistics spread nothing; there a sum is finite only if
    all its terms are.
    """
    if not raw and inputs.standardisation != "fixed":
        images = images[..., 0, 0]
    return bool(images.sum(dtype=torch.float32).isfinite())


def _broken(clip_id: str, what: str) -> UserError:
    return UserError(
        f"clip {clip_id}: {what}. Fix: `clip4vla data verify --repair` builds its shard again"
    )
