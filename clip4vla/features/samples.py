"""Clips of the cache as tensors: what the training loop and the evaluators read."""

import numpy as np
import torch

from clip4vla.config.data import AudioPolicy
from clip4vla.config.run import Inputs, Masking
from clip4vla.errors import UserError
from clip4vla.features.cache import ClipCache
from clip4vla.features.frames import SIZE, to_tensor
from clip4vla.features.masking import draw_masks
from clip4vla.features.seeds import generator
from clip4vla.features.segments import CHANNELS, SEGMENT, split
from clip4vla.features.text import tokenize

Item = tuple[str, str, str]  # clip id, caption, label; an absent caption or label is ""
NEED_DONORS = ("substitute", "random")
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
    `masked_audio`.
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
    ):
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

    def set_epoch(self, epoch: int) -> None:
        """Seed masks with this epoch; call it before iterating a loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        """frames [f, 3, 224, 224], audio [s, 3, 224, 224] (s = 0: none), tokens [L] and the rest.

        UserError naming the clip when its cached content is broken.
        """
        clip_id, caption, label = self.items[index]
        raw = self.cache.read(clip_id, self.inputs.max_frames)
        try:
            frames = torch.stack([to_tensor(jpeg) for jpeg in raw.frames])
        except OSError as error:
            raise _broken(clip_id, "a frame is no whole JPEG") from error
        log_mel = raw.log_mel if raw.log_mel is not None else self._stand_in(clip_id)
        sample = {
            "clip_id": clip_id,
            "frames": frames,
            "has_audio": log_mel is not None or self.missing == "zeros",
            "tokens": tokenize([caption], self.inputs.max_words)[0],
            "caption": caption,
            "nonverbal_share": self.nonverbal_share,
            "label": label,
        }
        if log_mel is None:
            nothing = torch.zeros(0, CHANNELS, SEGMENT, SEGMENT)
            return sample | {"audio": nothing} | ({"masked_audio": nothing} if self.masking else {})
        if not log_mel.isfinite().all():
            raise _broken(clip_id, "its log-mel holds NaN or infinity")
        sample["audio"] = split(log_mel, self.inputs)
        if self.masking:
            rng = generator("mask", self.seed, int(self._epoch), clip_id)
            masks = draw_masks(*log_mel.shape[1:], self.masking, rng)
            sample["masked_audio"] = split(log_mel, self.inputs, masks)
        return sample

    def _stand_in(self, clip_id: str) -> torch.Tensor | None:
        """The log-mel that a silent clip is given, if any."""
        donor = self.donor_of.get(clip_id)
        return self.cache.read_log_mel(donor) if donor is not None else None


def _broken(clip_id: str, what: str) -> UserError:
    return UserError(
        f"clip {clip_id}: {what}: delete the index file of its shard and run the same command again"
    )


def collate(samples: list[dict]) -> dict:
    """A batch: frames [B, F, 3, 224, 224] and audio [B, S, 3, 224, 224] padded with zeros.

    F and S are the batch's own maximum, at least 1; `frame_mask` [B, F] and `audio_mask` [B, S] are
    True where a sample has content. Padding changes no sample's own values.
    """
    batch = {key: [sample[key] for sample in samples] for key in ("clip_id", "caption", "label")}
    batch["tokens"] = torch.stack([sample["tokens"] for sample in samples])  # [B, L]
    batch["has_audio"] = torch.tensor([sample["has_audio"] for sample in samples])  # [B]
    shares = np.array([sample["nonverbal_share"] for sample in samples], dtype=np.float32)
    batch["nonverbal_share"] = torch.from_numpy(shares)  # [B]
    for key, mask in PADDED.items():
        if key not in samples[0]:
            continue
        lengths = torch.tensor([len(sample[key]) for sample in samples])
        longest = max(int(lengths.max()), 1)
        batch[key] = torch.zeros(len(samples), longest, 3, SIZE, SIZE)
        for row, sample in zip(batch[key], samples, strict=True):
            row[: len(sample[key])] = sample[key]
        if mask:
            batch[mask] = torch.arange(longest) < lengths[:, None]
    return batch
