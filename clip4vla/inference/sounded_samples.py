"""Clips with the sounds of a variant, read from the cache."""

from collections.abc import Collection

from clip4vla.config.sections import Modality
from clip4vla.inference.audio_controls import Sounds
from clip4vla.loading.samples import ClipSamples, Item


class SoundedSamples(ClipSamples):
    """Samples with given sounds, for models whose features are not shared by variants.

    `SharedFeatures` keeps the features of one modality in memory. That suits models that have a
    vector for each frame and segment, and not those whose modalities meet patch by patch: they
    encode each variant anew.
    """

    sounds: Sounds
    hidden: bool

    def jpegs(self, clip_id: str) -> list[bytearray]:
        """See `ClipSamples.jpegs`."""
        return [] if self.hidden else super().jpegs(clip_id)

    def _sound_of(self, clip_id: str) -> str | None:
        """See `ClipSamples`."""
        sound = self.sounds[clip_id] if "audio" in self.modalities else None
        if sound not in (None, clip_id):
            self.cache.spot_check(sound)
        return sound


def sounded_samples(
    like: ClipSamples,
    items: list[Item],
    sounds: Sounds,
    modalities: Collection[Modality],
    nonverbal_share: float,
    zeros: bool,
    hidden: bool,
) -> SoundedSamples:
    """Return samples of items, from the cache of other samples.

    zeros: silent clips count as having sound; hidden: no clip has a frame, though vision is among
    the modalities.
    """
    samples = SoundedSamples(
        like.cache,
        items,
        like.inputs,
        nonverbal_share,
        missing="zeros" if zeros else "none",
        modalities=modalities,
    )
    samples.sounds, samples.hidden = sounds, hidden
    return samples
