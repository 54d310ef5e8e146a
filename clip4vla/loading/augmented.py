"""Training clips with augmentation: `ClipSamples` as `loading/augment.py` changes them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from clip4vla.config.sections import Augment
from clip4vla.loading.augment import (
    Mixture,
    add_noise,
    augmentation_rng,
    draw_mixture,
    mask_log_mel,
    mix_waveforms,
    roll_steps,
)
from clip4vla.loading.samples import ClipSamples, Mixed, Sample

Draws = Callable[[str], np.random.Generator]  # by purpose


class AugmentedSamples(torch.utils.data.Dataset):
    """Samples of `samples`, augmented: a pure function of (item, seed, epoch, number of draw).

    So ranks, workers and resuming change nothing. Any clip may be mixed in, also one that is silent
    or the clip itself; the sound of a silent one is zero, unless both are silent.
    """

    def __init__(self, samples: ClipSamples, augment: Augment):
        self.samples, self.augment = samples, augment
        self.items, self.cache, self.set_epoch = samples.items, samples.cache, samples.set_epoch
        if augment.mixup:
            from clip4vla.cache.log_mel import LogMelFrontend  # slow to load: torchaudio, libav

            self._front_end = LogMelFrontend(samples.cache.settings.log_mel)

    def __len__(self) -> int:
        return len(self.items)

    def drawn(self, index: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Return indices of samples that were drawn `number` times before in this epoch."""
        return index + number * len(self.items)

    def __getitem__(self, draw: int) -> Sample:
        """Return one sample, by its index or by that of a further draw of it (`drawn`)."""
        number, index = divmod(draw, len(self.items))
        clip_id, _, _ = self.items[index]
        self.cache.spot_check(clip_id)

        def draws(purpose: str) -> np.random.Generator:
            seed, epoch = self.samples.seed, self.samples.epoch
            return augmentation_rng(purpose, seed, epoch, clip_id, number)

        mixture = draw_mixture(len(self.items), self.augment.mixup, draws("mixup"))
        if mixture is None:
            log_mel = self.samples.log_mel(clip_id)
        else:
            log_mel = self._mixed_log_mel(clip_id, mixture)
        if log_mel is not None:
            log_mel = self._varied(log_mel.float(), draws)
        sample = self.samples.sample(index, log_mel)
        return sample if mixture is None else replace(sample, mixed=self._mixed(mixture))

    def _mixed(self, mixture: Mixture) -> Mixed:
        clip_id, _, labels = self.items[mixture.other]
        self.cache.spot_check(clip_id)
        return Mixed(clip_id, labels, mixture.share, self.samples.jpegs(clip_id))

    def _mixed_log_mel(self, clip_id: str, mixture: Mixture) -> Tensor | None:
        """Return the log-mel of two waveforms that are mixed; None without any sound."""
        other_id, _, _ = self.items[mixture.other]
        own, other = (self.samples.waveform(name) for name in (clip_id, other_id))
        if own is None:
            if other is None:
                return None
            own = torch.zeros_like(other)
        if other is None:
            other = torch.zeros_like(own)
        mixed = mix_waveforms(own, other, mixture.share)
        return self._front_end.compute(mixed, self._front_end.config.sample_rate)

    def _varied(self, log_mel: Tensor, draws: Draws) -> Tensor:
        """Return a log-mel [C, T, n_mels] with masks, noise and a shift in time."""
        augment = self.augment
        if augment.frequency_mask or augment.time_mask:
            rng = draws("mask bands and steps")
            log_mel = mask_log_mel(log_mel, augment.frequency_mask, augment.time_mask, rng)
        if augment.noise:
            log_mel = add_noise(log_mel, self._deviation(log_mel), draws("noise"))
        if augment.roll:
            log_mel = roll_steps(log_mel, draws("roll"))
        return log_mel

    def _deviation(self, log_mel: Tensor) -> float:
        """Return the standard deviation by which a log-mel is divided, about."""
        inputs = self.samples.inputs
        if inputs.standardisation == "fixed":
            assert inputs.log_mel_std is not None, "checked by the config"
            return inputs.log_mel_std
        return float(log_mel.std(correction=0))
