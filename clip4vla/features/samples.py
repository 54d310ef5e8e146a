"""Clips of the cache as tensors: what the training loop and the evaluators read."""

import copy
from collections.abc import Collection

import numpy as np
import torch

from clip4vla.config.data import AudioPolicy
from clip4vla.config.run import Inputs, Masking, Modality
from clip4vla.errors import UserError
from clip4vla.features.cache import ClipCache
from clip4vla.features.frames import SIZE, to_pixels
from clip4vla.features.masking import draw_masks
from clip4vla.features.seeds import generator
from clip4vla.features.segments import SEGMENT, split
from clip4vla.features.text import tokenize

Item = tuple[str, str, str]  # clip id, caption, label; an absent caption or label is ""
NEED_DONORS = ("substitute", "random")
VECTORS = {"vision", "text"}
PADDED = {"frames": "frame_mask", "audio": "audio_mask", "masked_audio": None}


class ClipSamples(torch.utils.data.Dataset):
    """Items (clip id, caption, label) as samples, a pure function of (item, seed, epoch).

    What becomes of a silent clip is the policy `missing` (facts 1.6):

    * `filter`: its items are left out; `items` and `len` count what is kept.
    * `substitute`, `random`: it gets the sound of its donor in `donor_of`, a nearest neighbour or
      a clip drawn at random by the substitution; UserError when one has none.
    * `zeros`: it counts as having audio; its audio is zero and wholly masked.
    * `none`: it has no audio: `has_audio` is False.

    A donor in `donor_of` is used under any policy but `filter`. With `masking`, samples also hold
    `masked_audio`. A modality that is not among `modalities` is neither read nor decoded.
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
    ):
        self.modalities = frozenset(modalities)
        self.cache, self.inputs, self.masking, self.seed = cache, inputs, masking, seed
        self.nonverbal_share, self.missing = nonverbal_share, missing
        self.donor_of = dict(donor_of or {})
        self.items = [item for item in items if missing != "filter" or item[0] not in cache.silent]
        self._check()
        # Shared memory: workers that outlive an epoch see the next one too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def _check(self) -> None:
        """UserError for a clip that is not in the cache, or has no donor where one is needed."""
        for clip_id in dict.fromkeys(item[0] for item in self.items):
            if clip_id not in self.cache:
                raise UserError(
                    f"clip {clip_id}: not in {self.cache.manifest['dataset']}: take the items from "
                    "its splits.parquet"
                )
            if clip_id not in self.cache.silent:
                continue
            donor = self.donor_of.get(clip_id)
            if donor is None and self.missing in NEED_DONORS:
                raise UserError(
                    f"clip {clip_id}: silent and without a donor: name its split among the queries "
                    "of the substitution"
                )
            if donor is not None and (donor not in self.cache or donor in self.cache.silent):
                raise UserError(
                    f"clip {clip_id}: its donor {donor} is not a clip with sound in "
                    f"{self.cache.manifest['dataset']}: run the substitution again"
                )

    def only(self, *modalities: Modality) -> "ClipSamples":
        """The same samples with fewer modalities."""
        fewer = copy.copy(self)
        fewer.modalities = frozenset(modalities)
        return fewer

    def set_epoch(self, epoch: int) -> None:
        """Seed masks with this epoch; call it before iterating a loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        """frames uint8 [f, 3, 224, 224], audio float32 [s, C, 224, 224], tokens [L] and the rest.

        C is 1 for mono, which stands for three equal channels; f or s is 0 where there is nothing.
        UserError naming the clip when its cached content is broken.
        """
        clip_id, caption, label = self.items[index]
        sample = {
            "clip_id": clip_id,
            "frames": self._frames(clip_id),
            "tokens": tokenize([caption], self.inputs.max_words)[0],
            "caption": caption,
            "nonverbal_share": self.nonverbal_share,
            "label": label,
        }
        log_mel = self._log_mel(clip_id) if "audio" in self.modalities else None
        sample["has_audio"] = log_mel is not None or self.missing == "zeros"
        if log_mel is None:
            nothing = torch.zeros(0, 1, SEGMENT, SEGMENT)
            return sample | {"audio": nothing} | ({"masked_audio": nothing} if self.masking else {})
        sample["audio"] = split(log_mel, self.inputs)
        if not self._is_finite(sample["audio"]):
            raise _broken(clip_id, "its log-mel holds NaN or infinity")
        if self.masking:
            rng = generator("mask", self.seed, int(self._epoch), clip_id)
            masks = draw_masks(*log_mel.shape[1:], self.masking, rng)
            sample["masked_audio"] = split(log_mel, self.inputs, masks)
        return sample

    def _frames(self, clip_id: str) -> torch.Tensor:
        if "vision" not in self.modalities:
            return torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8)
        jpegs = self.cache.read_frames(clip_id, self.inputs.max_frames)
        frames = np.empty((len(jpegs), 3, SIZE, SIZE), np.uint8)
        try:
            for frame, jpeg in zip(frames, jpegs, strict=True):
                frame[...] = to_pixels(jpeg)  # turned colours first by numpy, faster than by torch
            return torch.from_numpy(frames)
        except OSError as error:
            raise _broken(clip_id, "a frame is no whole JPEG") from error

    def _log_mel(self, clip_id: str) -> torch.Tensor | None:
        """Its own, else its donor's, else None."""
        log_mel = self.cache.read_log_mel(clip_id)
        donor = self.donor_of.get(clip_id)
        if log_mel is None and donor is not None:
            log_mel = self.cache.read_log_mel(donor)
        return log_mel

    def _is_finite(self, audio: torch.Tensor) -> bool:
        """Whether all that a sample takes from a log-mel is finite.

        One NaN or infinity in the statistics of an image makes all of its values NaN: looking at
        one of each is enough. Fixed statistics spread nothing; there a sum is finite only if all
        its terms are.
        """
        if self.inputs.standardisation != "fixed":
            audio = audio[..., 0, 0]
        return bool(audio.sum().isfinite())


def _broken(clip_id: str, what: str) -> UserError:
    return UserError(
        f"clip {clip_id}: {what}: `clip4vla data verify --repair` builds its shard again"
    )


def collate(samples: list[dict]) -> dict:
    """A batch: frames uint8 [B, F, 3, 224, 224] and audio float32 [B, S, C, 224, 224], zero-padded.

    F and S are the batch's own maximum, at least 1; C is 1 when every clip is mono, else 3.
    `frame_mask` [B, F] and `audio_mask` [B, S] are True where a sample has content. Padding changes
    no sample's own values. Vectors in place of frames (`clip4vla.features.vectors`) are stacked.
    """
    batch = {key: [sample[key] for sample in samples] for key in ("clip_id", "caption", "label")}
    batch["tokens"] = torch.stack([sample["tokens"] for sample in samples])  # [B, L]
    batch["has_audio"] = torch.tensor([sample["has_audio"] for sample in samples])  # [B]
    shares = np.array([sample["nonverbal_share"] for sample in samples], dtype=np.float32)
    batch["nonverbal_share"] = torch.from_numpy(shares)  # [B]
    for key in VECTORS & samples[0].keys():
        batch[key] = torch.stack([sample[key] for sample in samples])  # [B, D]
    for key, mask in PADDED.items():
        if key not in samples[0]:
            continue
        batch[key], valid = _padded([sample[key] for sample in samples])
        if mask:
            batch[mask] = valid
    return batch


def _padded(pieces: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces [n_i, C_i, H, W] as one tensor [B, N, C, H, W], and where it is filled [B, N]."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    longest = max(int(lengths.max()), 1)
    channels = max(piece.shape[1] for piece in pieces)
    padded = pieces[0].new_empty(len(pieces), longest, channels, SIZE, SIZE)
    for row, piece in zip(padded, pieces, strict=True):
        row[: len(piece)] = piece  # one channel is repeated where others have three
        row[len(piece) :] = 0
    return padded, torch.arange(longest) < lengths[:, None]
