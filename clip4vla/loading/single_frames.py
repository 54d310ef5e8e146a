"""Samples with one frame each, for scores that are averaged over frames."""

from dataclasses import replace
from typing import Any, Self

from clip4vla.config.sections import Modality
from clip4vla.loading.samples import Clips


class SingleFrame(Clips):
    """The frame at the same part of every clip: number `number` of `count`, from 0.

    samples: `ClipSamples`, or features in their place (`clip4vla.inference.feature_cache`).
    """

    def __init__(self, samples: Clips, number: int, count: int):
        self.samples, self.number, self.count = samples, number, count
        self.items, self.inputs, self.cache = samples.items, samples.inputs, samples.cache
        for name in ("collate", "in_memory"):  # what the loader asks for
            if hasattr(samples, name):
                setattr(self, name, getattr(samples, name))

    def only(self, *modalities: Modality) -> Self:
        """See `Clips.only`."""
        return type(self)(self.samples.only(*modalities), self.number, self.count)

    def __getitem__(self, index: int) -> Any:
        """Return one sample."""
        sample = self.samples[index]
        if isinstance(sample, dict):
            return sample | {"frames": self._own(sample["frames"])}
        return replace(sample, jpegs=self._own(sample.jpegs))

    def _own(self, frames: Any) -> Any:
        """Return the one of the frames, as a list or tensor of one; None for none."""
        if frames is None:
            return None
        place = self.number * len(frames) // self.count
        return frames[place : place + 1]
