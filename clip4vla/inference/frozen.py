"""CLIP's vectors computed once, where CLIP is frozen and nothing augments its inputs (stage 1).

The towers see the same frames and words in every epoch, and in every run on the same data: their
pooled vectors lie beside the shards, in `frozen/`, which may be deleted at any time.
"""

import torch
from torch import Tensor

from clip4vla.cache.vectors import Vectors
from clip4vla.common.device import half_type
from clip4vla.config.run import CODE_VERSION
from clip4vla.inference.features import embed_clips, embed_texts
from clip4vla.loading.frozen import FrozenSamples
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.common.clip_model import ClipModel


def frozen_samples(
    model: ClipModel, samples: ClipSamples, device: torch.device, workers: int
) -> FrozenSamples:
    """Return `samples` with vectors of the vision and text tower in place of their frames.

    What is not on disk yet is computed, on `device`, where the model must be; several processes
    share the work. The vectors are those that the towers give during training, up to the rounding
    of another composition of batches.
    """
    inputs, folder = samples.inputs, samples.cache.folder / "frozen"
    shared = {"precision": str(half_type(device)), "code_version": CODE_VERSION}
    meaning = shared | {
        "tower": model.part_hash("vision"),
        "manifest": samples.cache.manifest_sha256,
        **inputs.of_frames,
    }
    vision = Vectors(folder, sorted({clip_id for clip_id, _, _ in samples.items}), meaning)

    def frames(clip_ids: list[str]) -> Tensor:
        clips = samples.of(clip_ids, "vision")
        return embed_clips(model, clips, ["vision"], device, workers).vectors["vision"]

    vision.build(frames)
    meaning = shared | {"tower": model.part_hash("text"), "max_words": inputs.max_words}
    text = Vectors(folder, sorted({caption for _, caption, _ in samples.items}), meaning)
    text.build(lambda captions: embed_texts(model, captions, inputs.max_words, device))
    return FrozenSamples(samples.only("audio"), vision, text)
