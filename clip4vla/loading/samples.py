"""Clips of the cache with captions: what the training loop and the evaluators read."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

import torch

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError
from clip4vla.common.seeds import generator
from clip4vla.config.data import DONORS_BY, AudioPolicy
from clip4vla.config.sections import Inputs, Masking, Modality
from clip4vla.loading.masking import Masks, draw_masks
from clip4vla.loading.segments import drawn_start

FULL_SCALE = 2**15  # of int16
Item = tuple[str, str, tuple[str, ...]]  # clip id, caption ("": absent), labels


@dataclass(frozen=True)
class Mixed:
    """The clip that is mixed into a sample, and the share that the sample keeps.

    Its sound is in the sample's log-mel already; its frames are mixed in when they are decoded.
    """

    clip_id: str
    labels: tuple[str, ...]
    share: float
    jpegs: list[bytearray]


@dataclass(frozen=True)
class Sample:
    """A clip, a caption and labels, with the clip's content still as the cache holds it.

    Nothing is decoded before the batch is there to hold it (`clip4vla.loading.collate`): what a
    sample has of its own would only be copied once more.
    """

    clip_id: str
    caption: str
    labels: tuple[str, ...]
    nonverbal_share: float
    has_audio: bool
    inputs: Inputs
    jpegs: list[bytearray] | None  # None where `vectors` stand in their place
    bands: int  # of log-mels in the cache
    log_mel: torch.Tensor | None  # [1 or 3, T, bands], dB or (fbank) ln; None for silence
    start: int | None  # step of the log-mel where its segments begin; None: the central ones
    masks: Masks | None  # None without masking
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)  # name -> [D]
    mixed: Mixed | None = None


class Clips(torch.utils.data.Dataset, ABC):
    """Clips to read in the order of their items: `ClipSamples`, or features in their place."""

    items: list[Item]
    inputs: Inputs
    cache: ClipCache

    def __len__(self) -> int:
        return len(self.items)

    @abstractmethod
    def only(self, *modalities: Modality) -> Self:
        """Return the same clips with fewer modalities."""


class ClipSamples(Clips):
    """Items (clip id, caption, labels) as samples, a pure function of (item, seed, epoch).

    What becomes of a silent clip is the policy `missing` (facts 1.6):

    * `filter`: its items are left out; `items` and `len` count what is kept.
    * `substitute`, `random`, `released_links`: it gets the sound of its donor in `donor_of`, a
      nearest neighbour by frames, a clip drawn at random, or a nearest neighbour by captions, as
      the substitution says; UserError when one has none.
    * `zeros`: it counts as having audio; its audio is zero and wholly masked.
    * `none`: it has no audio: `has_audio` is False.

    A donor in `donor_of` is used under any policy but `filter`. With `masking`, samples also hold
    masks. A modality that is not among `modalities` is neither read nor decoded. training: frames
    and sound are drawn as `inputs.train_frames` and `train_crop` say, which evaluation never reads.
    """

    def __init__(
        self,
        cache: ClipCache,
        items: list[Item],
        inputs: Inputs,
        nonverbal_share: float,
        donor_of: dict[str, str] | None = None,
        missing: AudioPolicy = "none",
        masking: Masking | None = None,
        seed: int = 0,
        modalities: Collection[Modality] = ("vision", "audio"),
        training: bool = False,
    ):
        self.modalities = frozenset(modalities)
        self.cache, self.masking, self.seed = cache, masking, seed
        self.inputs = inputs if training else inputs.without_draws()
        self.nonverbal_share, self.missing = nonverbal_share, missing
        self.donor_of = dict(donor_of or {})
        self.items = [item for item in items if missing != "filter" or item[0] not in cache.silent]
        self._check()
        # Shared memory: workers that outlive an epoch see the next one too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _check(self) -> None:
        """Raise UserError for a clip that is not in the cache, or lacks a donor that it needs."""
        for clip_id in dict.fromkeys(item[0] for item in self.items):
            if clip_id not in self.cache:
                raise UserError(
                    f"clip {clip_id}: not in {self.cache.manifest['dataset']}. Fix: take the items "
                    "from its splits.parquet"
                )
            if clip_id not in self.cache.silent:
                continue
            donor = self.donor_of.get(clip_id)
            if donor is None and self.missing in DONORS_BY:
                raise UserError(
                    f"clip {clip_id}: silent and without a donor. Fix: name its split among the "
                    "queries of the substitution"
                )
            if donor is not None and (donor not in self.cache or donor in self.cache.silent):
                raise UserError(
                    f"clip {clip_id}: its donor {donor} is not a clip with sound in "
                    f"{self.cache.manifest['dataset']}. Fix: run the substitution again"
                )

    def only(self, *modalities: Modality) -> Self:
        """See `Clips.only`."""
        fewer = copy.copy(self)
        fewer.modalities = frozenset(modalities)
        return fewer

    def of(self, clip_ids: list[str], modality: Modality) -> "ClipSamples":
        """Return samples of other clips of the cache, with one modality, each clip's own."""
        items: list[Item] = [(clip_id, "", ()) for clip_id in clip_ids]
        return ClipSamples(
            self.cache, items, self.inputs, self.nonverbal_share, modalities=(modality,)
        )

    def set_epoch(self, epoch: int) -> None:
        """Seed masks with this epoch; call it before iterating a loader."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that `set_epoch` has set, also in workers."""
        return int(self._epoch)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample as the cache holds it; `collate` makes a batch of several."""
        clip_id, _, _ = self.items[index]
        self.cache.spot_check(clip_id)
        return self.sample(index, self.log_mel(clip_id))

    def sample(self, index: int, log_mel: torch.Tensor | None) -> Sample:
        """Return one sample with this log-mel."""
        clip_id, caption, labels = self.items[index]
        return Sample(
            clip_id=clip_id,
            caption=caption,
            labels=labels,
            nonverbal_share=self.nonverbal_share,
            has_audio=log_mel is not None or self.missing == "zeros",
            inputs=self.inputs,
            jpegs=self.jpegs(clip_id),
            bands=self.bands,
            log_mel=log_mel,
            start=self._start(clip_id, log_mel),
            masks=self._masks(clip_id, log_mel),
        )

    def jpegs(self, clip_id: str) -> list[bytearray]:
        """Return the frames of a clip; none without vision."""
        if "vision" not in self.modalities:
            return []
        wanted = self.inputs.train_frames
        if wanted is None:
            return self.cache.read_frames(clip_id, self.inputs.max_frames, self.inputs.frame_choice)
        count = self.cache.frame_count(clip_id)
        rng = generator("frames", self.seed, self.epoch, clip_id)
        drawn = rng.choice(count, min(wanted, count), replace=False)
        return self.cache.read_frames_at(clip_id, sorted(drawn))

    def log_mel(self, clip_id: str) -> torch.Tensor | None:
        """Return a clip's own log-mel, else its donor's, else None; None without audio."""
        source = self._sound_of(clip_id)
        return None if source is None else self.cache.read_log_mel(source)

    def waveform(self, clip_id: str) -> torch.Tensor | None:
        """Return the waveform behind `log_mel`, float32 [1 or 2, n] in -1..1."""
        source = self._sound_of(clip_id)
        waveform = None if source is None else self.cache.read_waveform(source)
        return None if waveform is None else waveform / FULL_SCALE

    def _sound_of(self, clip_id: str) -> str | None:
        """Return the clip whose sound a clip has: its own, its donor's or none."""
        if "audio" not in self.modalities:
            return None
        if clip_id not in self.cache.silent:
            return clip_id
        donor = self.donor_of.get(clip_id)
        if donor is not None:
            self.cache.spot_check(donor)
        return donor

    @property
    def bands(self) -> int:
        """Return the mel bands of the cache."""
        return self.cache.settings.log_mel.n_mels

    def _start(self, clip_id: str, log_mel: torch.Tensor | None) -> int | None:
        """Return the step where a clip's segments begin; None: the central ones are kept."""
        if log_mel is None or not self.inputs.train_crop:
            return None
        rng = generator("crop", self.seed, self.epoch, clip_id)
        return drawn_start(log_mel.shape[1], self.inputs, rng)

    def _masks(self, clip_id: str, log_mel: torch.Tensor | None) -> Masks | None:
        if self.masking is None:
            return None
        steps, bands = (0, self.bands) if log_mel is None else log_mel.shape[1:]
        rng = generator("mask", self.seed, self.epoch, clip_id)
        return draw_masks(steps, bands, self.masking, rng)
