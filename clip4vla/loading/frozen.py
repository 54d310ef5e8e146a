"""Samples with vectors of frozen towers in place of their frames and words."""

from dataclasses import replace

import torch

from clip4vla.cache.vectors import Vectors
from clip4vla.loading.samples import ClipSamples, Sample


class FrozenSamples(torch.utils.data.Dataset):
    """Samples with vectors in place of their frames: `vision` [D] by clip, `text` [D] by caption.

    `samples` without vision among their modalities.
    """

    def __init__(self, samples: ClipSamples, vision: Vectors, text: Vectors):
        self.samples, self.vision, self.text = samples, vision, text
        self.items, self.cache, self.set_epoch = samples.items, samples.cache, samples.set_epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample as `ClipSamples` does, with vectors instead of frames."""
        sample = self.samples[index]
        vectors = {"vision": self.vision[sample.clip_id], "text": self.text[sample.caption]}
        return replace(sample, jpegs=None, vectors=vectors)
