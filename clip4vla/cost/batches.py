"""Batches of typical clips: tensors as `clip4vla.loading` gives them, on the meta device."""

from collections.abc import Iterable

import torch
from torch import Tensor

from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.sections import Inputs, Modality
from clip4vla.cost.assumptions import CAPTION_WORDS, CLASSES
from clip4vla.cost.units import ClipSize
from clip4vla.inference.features import ClipFeatures
from clip4vla.inference.probe import probe_batch
from clip4vla.loading.processor import Processor
from clip4vla.models.common.task import Batch


def clip_batch(
    clip: ClipSize,
    processor: Processor,
    size: int,
    inputs: Inputs,
    modalities: Iterable[Modality],
    masked: bool = False,
) -> Batch:
    """Return a batch of clips as `collate` makes it. masked: with masked audio beside the audio."""
    frames = clip.frames if "vision" in modalities else 0
    segments = clip.segments if "audio" in modalities else 0
    image = inputs.segment_steps, clip.bands
    audio = _floats(size, max(segments, 1), clip.channels, *image)
    pixels = _floats(size, max(frames, 1), 3, IMAGE_SIZE, IMAGE_SIZE).to(torch.uint8)
    return {
        "clip_id": [str(number) for number in range(size)],
        "tokens": tokens(processor, size, inputs.caption_tokens),
        "has_audio": torch.ones(size, dtype=torch.bool),
        "nonverbal_share": torch.zeros(size),
        "frames": pixels,
        "frame_mask": _filled(size, frames),
        "audio": audio,
        "audio_mask": _filled(size, segments),
    } | ({"masked_audio": audio} if masked else {})


def vectors(size: int, dim: int) -> Batch:
    """Return vectors [B, D] of frames and words that were computed once."""
    return {name: _floats(size, dim) for name in ("vision", "text")}


def tokens(processor: Processor, size: int, length: int) -> Tensor:
    """Return the tokens of typical captions, int64 [B, L]."""
    return processor.tokenize(["dog " * CAPTION_WORDS], length).expand(size, -1).clone()


def probe_batch_of(size: int, dim: int, modalities: Iterable[Modality]) -> Batch:
    """Return a batch for a probe."""
    everywhere = torch.ones(size, dtype=torch.bool)
    features = ClipFeatures(
        clip_ids=[],
        vectors={modality: _floats(size, dim) for modality in modalities},
        present=dict.fromkeys(modalities, everywhere),
    )
    return probe_batch(features)


def class_targets_of(size: int, shares: bool) -> Tensor:
    """Return targets: classes [B], or shares of every class [B, C]."""
    return _floats(size, CLASSES) if shares else torch.zeros(size, dtype=torch.long)


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _filled(size: int, count: int) -> Tensor:
    """Return a mask [B, n] of full rows; of one empty column for no content at all."""
    return torch.full((size, max(count, 1)), count > 0)
