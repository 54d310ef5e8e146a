"""Features of frames and sounds, each made once and shared by all variants of an evaluation."""

import copy
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.device import autocast, to_device
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.inference.audio_controls import Sounds
from clip4vla.inference.features import CLIPS, check_finite
from clip4vla.loading.loader import in_order, loader
from clip4vla.loading.samples import Clips, ClipSamples, Item
from clip4vla.models.common.clip_model import ClipModel


class SharedFeatures:
    """Un-normalised frames [F, D] and segments [S, D] of clips, float32 on the CPU, by clip.

    A sound is encoded once for each type token, whichever clips have it; of sounds only those of
    the last token are kept. About 50 KB a clip at width 512.
    """

    def __init__(self, model: ClipModel, samples: ClipSamples, device: torch.device, workers: int):
        """Keep what features are made with. samples: which clips are read, from where, and how."""
        self.model, self.samples, self.device, self.workers = model, samples, device, workers
        self.frames: dict[str, Tensor] = {}
        self.segments: dict[str, Tensor] = {}
        self.share: float | None = None

    def of(
        self,
        items: list[Item],
        sounds: Sounds,
        modalities: Iterable[Modality],
        nonverbal_share: float,
        zeros: bool,
    ) -> "FeatureSamples":
        """Return samples of items with given sounds. zeros: silent clips count as having sound."""
        frames = segments = None
        if "vision" in modalities:
            self._add(self.frames, [clip for clip, _, _ in items], "vision", nonverbal_share)
            frames = self.frames
        if "audio" in modalities:
            if nonverbal_share != self.share:
                self.segments, self.share = {}, nonverbal_share
            wanted = [sound for sound in sounds.values() if sound is not None]
            self._add(self.segments, wanted, "audio", nonverbal_share)
            segments = self.segments
        return FeatureSamples(
            like=self.samples,
            items=items,
            frames=frames,
            segments=segments,
            sounds=sounds,
            zeros=zeros,
            width=self.model.dim,
        )

    def _add(
        self, known: dict[str, Tensor], clip_ids: list[str], modality: Modality, share: float
    ) -> None:
        missing = [clip_id for clip_id in dict.fromkeys(clip_ids) if clip_id not in known]
        if not missing:
            return
        items: list[Item] = [(clip_id, "", ()) for clip_id in missing]
        samples = ClipSamples(
            self.samples.cache, items, self.samples.inputs, share, modalities=(modality,)
        )
        rows = in_order(len(samples), CLIPS)
        batches = loader(samples, rows, self.workers, self.device, self.model.processor)
        self.model.eval()
        for batch in track(batches, "encode frames" if modality == "vision" else "encode sounds"):
            batch = to_device(batch, self.device)
            with torch.no_grad(), autocast(self.device, self.model):
                encoded = self.model.encode_clips(batch, [modality])
            check_finite(batch["clip_id"], encoded)
            features, mask = (x.cpu() for x in encoded[modality])
            features = features.float()
            for clip_id, x, valid in zip(batch["clip_id"], features, mask, strict=True):
                known[clip_id] = x[valid].clone()


class FeatureSamples(Clips):
    """Samples that hold features in place of frames and sounds: what `encode_clips` gives back."""

    in_memory = True  # read by `loader`: processes that read would only copy

    def __init__(
        self,
        like: ClipSamples,
        items: list[Item],
        frames: dict[str, Tensor] | None,
        segments: dict[str, Tensor] | None,
        sounds: Sounds,
        zeros: bool,
        width: int,
    ):
        self.items, self.inputs, self.cache, self.width = items, like.inputs, like.cache, width
        self.frames, self.segments, self.sounds, self.zeros = frames, segments, sounds, zeros

    def __getitem__(self, index: int) -> dict:
        """Return one item: frames [F, D] and segments [S, D] of its sound; None: not asked for."""
        clip_id, _, _ = self.items[index]
        sound = self.sounds[clip_id]
        segments: Tensor | None = None
        if self.segments is not None:
            segments = torch.zeros(0, self.width) if sound is None else self.segments[sound]
        return {
            "clip_id": clip_id,
            "has_audio": sound is not None or self.zeros,
            "frames": None if self.frames is None else self.frames[clip_id],
            "segments": segments,
        }

    def only(self, *modalities: Modality) -> Self:
        """See `Clips.only`."""
        fewer = copy.copy(self)
        fewer.frames = self.frames if "vision" in modalities else None
        fewer.segments = self.segments if "audio" in modalities else None
        return fewer

    @staticmethod
    def collate(samples: list[dict]) -> dict:
        """Return a batch with padded `features`: vision [B, F, D], audio [B, S, D]; and masks."""
        batch: dict[str, Any] = {
            "clip_id": [sample["clip_id"] for sample in samples],
            "features": {},
        }
        batch["has_audio"] = torch.tensor([sample["has_audio"] for sample in samples])
        for name, of, mask in (
            ("vision", "frames", "frame_mask"),
            ("audio", "segments", "audio_mask"),
        ):
            pieces = [sample[of] for sample in samples]
            if pieces[0] is None:
                batch[mask] = torch.zeros(len(samples), 1, dtype=torch.bool)
                continue
            lengths = torch.tensor([len(piece) for piece in pieces])
            longest = max(int(lengths.max()), 1)
            batch["features"][name] = torch.stack(
                [pad(piece, (0, 0, 0, longest - len(piece))) for piece in pieces]
            )
            batch[mask] = torch.arange(longest) < lengths[:, None]
        return batch
