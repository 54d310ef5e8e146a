"""Captions of clips: greedy, or as the run's `decoding` says (facts 8.3)."""

from collections.abc import Sequence

import torch

from clip4vla.common.device import autocast, to_device
from clip4vla.config.sections import Decoding, Modality
from clip4vla.inference.features import CLIPS, check_finite
from clip4vla.loading.loader import WHOLE, Part, batches_of
from clip4vla.loading.samples import Clips
from clip4vla.models.common.clip_model import ClipModel


@torch.no_grad()
def generate(
    model: ClipModel,
    samples: Clips,
    modalities: Sequence[Modality],
    device: torch.device,
    workers: int,
    decoding: Decoding = Decoding(),
    part: Part = WHOLE,
) -> dict[str, str]:
    """Return a caption for every clip, or for those of one rank.

    The model is put into evaluation mode.
    """
    model.eval()
    captions = {}
    for _, batch in batches_of(
        samples,
        CLIPS,
        workers,
        device,
        model.processor,
        part=part,
        description="write captions",
    ):
        batch = to_device(batch, device)
        with autocast(device, model):
            encoded = model.encode_clips(batch, modalities)
            check_finite(batch["clip_id"], encoded)
            written = model.write_captions(
                encoded,
                decoding,
                max_words=samples.inputs.caption_steps,  # as many as training predicts
            )
        for clip_id, ids in zip(batch["clip_id"], written, strict=True):
            captions[clip_id] = model.processor.words(ids)
    return captions
