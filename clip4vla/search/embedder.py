"""A checkpoint that embeds texts, sounds and videos: what `clip4vla.load` gives."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.checkpoints.checkpoint import Checkpoint, read_checkpoint
from clip4vla.common.device import autocast, pick_device, to_device
from clip4vla.common.errors import UserError
from clip4vla.config.sections import Modality
from clip4vla.inference.features import embed_texts
from clip4vla.media.status import AudioStatus
from clip4vla.models.common.pooling import pool
from clip4vla.models.common.task import Batch
from clip4vla.search.media import Clip, grouped, pictures, sound, sounds
from clip4vla.tracking.recorded import check_recorded

BATCH = 64  # frames or segments that pass a tower at once: about 1 GB of a ViT-B/32 on a GPU

Sound = str | Path | tuple[np.ndarray, int]
Kind = Literal["audio", "video"]


@dataclass(frozen=True)
class Embedder(Checkpoint):
    """A model ready to embed. All vectors are float32 [N, D], of length 1, or zero for silence.

    Vectors of texts, sounds and videos are comparable: their products are cosines. They are what
    the towers give, pooled as in facts 5.1: each frame or segment is brought to length 1, then
    their mean. A clip's vector depends on nothing but the clip, to the rounding of float32.
    """

    device: torch.device = field(default_factory=pick_device)
    batch_size: int = BATCH  # about so many frames or segments at once: memory and speed only

    @property
    def dim(self) -> int:
        """D, the length of every vector: 512 for ViT-B/32."""
        return self.model.dim

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [N, D]. What exceeds `settings.inputs.max_words` is cut off.

        UserError for what is no text.
        """
        if isinstance(texts, str):
            raise UserError("texts: give a list of texts, not one text")
        texts = list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {row} is {text!r}, not a text: leave it out")
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return embed_texts(self.model, texts, self.settings.inputs.max_words, self.device).numpy()

    def embed_audio(
        self, given: Sequence[Sound], nonverbal_share: float | None = None
    ) -> np.ndarray:
        """Vectors of sounds, float32 [N, D]; zeros for silence and for a video without sound.

        given: paths of sound or video files, or pairs (samples, rate): samples [n] or [C, n],
        floats of full scale 1 or integers of their type's, at `rate` Hz. The central
        `settings.inputs.max_segments` segments of 1.792 s are heard.
        nonverbal_share: the type token, 0 for speech [VB] to 1 for other sound [NB]; None: the one
        the checkpoint was trained with, or its two tokens, which take no share. UserError, by
        name, for what cannot be decoded, and for samples that are NaN or infinite.
        """
        share = self.share(nonverbal_share)
        clips = (self._sound(item, row) for row, item in enumerate(given))
        return self._pooled("audio", clips, share)

    def embed_video(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Vectors of what is seen in videos, float32 [N, D].

        `settings.inputs.max_frames` frames are seen, spread evenly over the video. UserError, by
        name, for what has no pictures or cannot be decoded.
        """
        clips = (_good(path, next(pictures(path, self.settings))) for path in paths)
        return self._pooled("video", clips, None)

    def similarity(
        self, text: np.ndarray, video: np.ndarray | None = None, audio: np.ndarray | None = None
    ) -> np.ndarray:
        """Similarities of texts [Q, D] with clips [N, D], float32 [Q, N] in -1..1.

        Cosines; with both modalities their mean (global-to-global), or what the checkpoint's gate
        makes of them. A clip whose audio is zero counts by its pictures alone. UserError, with the
        row, for vectors that are NaN or infinite.
        """
        named = {"text": text, "video": video, "audio": audio}
        tensors = {
            name: None if rows is None else _vectors(name, rows, self.dim)
            for name, rows in named.items()
        }
        words, seen, heard = tensors.values()
        if seen is None and heard is None:
            raise UserError("similarity: give video, audio or both")
        if seen is not None and heard is not None and len(seen) != len(heard):
            raise UserError(
                f"similarity: {len(seen)} vectors of video and {len(heard)} of audio: give one of "
                "each for every clip"
            )
        has_audio = None if heard is None else heard.any(dim=1)
        weighed = isinstance(self.model.compare, nn.Module)
        device = self.device if weighed else torch.device("cpu")
        assert words is not None

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        with torch.no_grad():
            found = self.model.compare(
                words.to(device), moved(seen), moved(heard), 1.0, moved(has_audio)
            )
        name = "t_va" if len(found) == 3 else next(iter(found))
        return found[name].cpu().numpy()

    def share(self, nonverbal_share: float | None) -> float:
        """The type token to use. UserError where none is given and the checkpoint names none.

        Where no token is mixed, a share would have no effect.
        """
        if not self.settings.model.mixes_type_tokens:
            if nonverbal_share is not None:
                raise UserError(
                    "nonverbal_share: this checkpoint has no type token that is mixed. Fix: leave "
                    "nonverbal_share out"
                )
            return 0.5
        share = self.settings.nonverbal_share if nonverbal_share is None else nonverbal_share
        if share is None:
            raise UserError(
                "this checkpoint was trained with several type tokens: give nonverbal_share, from "
                "0 for speech to 1 for other sound (0.5 is usual)"
            )
        if not 0 <= share <= 1:
            raise UserError(f"nonverbal_share is {share}, give 0 to 1")
        return float(share)

    @torch.no_grad()
    def encode(
        self, kind: Kind, groups: Iterable[list[Clip]], share: float | None
    ) -> Iterator[tuple[Clip, Tensor]]:
        """Each clip with its features, float32 [n, D], un-normalised, as the tower gives them."""
        modality: Modality = "audio" if kind == "audio" else "vision"
        for group in groups:
            batch = to_device(_batch(modality, group, share), self.device)
            with autocast(self.device):
                features, mask = self.model.encode_clips(batch, [modality])[modality]
            for clip, row, own in zip(group, features.float().cpu(), mask.cpu(), strict=True):
                yield clip, row[own]

    def _pooled(self, kind: Kind, clips: Iterable[Clip], share: float | None) -> np.ndarray:
        groups = grouped(clips, self.batch_size)
        rows = [pooled(features) for _, features in self.encode(kind, groups, share)]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def _sound(self, item: Sound, row: int) -> Clip:
        if isinstance(item, str | Path):
            return _good(item, next(sounds(item, self.settings)))
        try:
            samples, rate = item
            waveform = _waveform(samples, rate)
            front_end = LogMelFrontend(self.settings.cache.log_mel)
            return sound(iter([waveform]), rate, self.settings, front_end)
        except (TypeError, ValueError) as error:
            raise UserError(f"sound {row}: {error}") from None


def load(
    path: str | Path, device: str | torch.device | None = None, batch_size: int = BATCH
) -> Embedder:
    """See `clip4vla.load`.

    UserError, with the remedy, for a file that this project did not write, is damaged, is not the
    one that a record.json beside it names, or holds NaN or infinity, for a device that is not
    there, and for a batch_size below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, give 1 or more")
    check_recorded(path)
    found = read_checkpoint(path)
    for name, values in found.model.named_parameters():
        if not values.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity: its training failed")
    where = pick_device(device)
    model = found.model.to(where)
    return Embedder(model, found.settings, found.metadata, where, batch_size)


def pooled(features: Tensor) -> np.ndarray:
    """One vector, float32 [D], of features [n, D]; zeros where n is 0 (facts 5.1)."""
    if not len(features):
        return np.zeros(features.shape[1], dtype=np.float32)
    mask = torch.ones(1, len(features), dtype=torch.bool)
    return pool(features[None], mask)[0].numpy()


def _good(path: str | Path, clip: Clip) -> Clip:
    """The clip, if it decodes; a video without sound is silence."""
    if clip.images.shape[0] or clip.status in (
        AudioStatus.DIGITAL_SILENCE,
        AudioStatus.NO_AUDIO_STREAM,
    ):
        return clip
    raise UserError(f"{path}: {clip.status}{f' ({clip.detail})' if clip.detail else ''}")


def _waveform(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples [n] or [C, n] as float32 [C, n] of full scale 1. ValueError says what is wrong."""
    if not rate > 0:
        raise ValueError(f"a rate of {rate} samples per second: give one above 0")
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples of shape {list(samples.shape)}: give [n] or [channels, n]")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples of type {samples.dtype}: give floats or signed integers")
    if not np.isfinite(samples).all():
        raise ValueError("it has samples that are NaN or infinite: mend or leave it out")
    return np.atleast_2d(samples).astype(np.float32)


def _vectors(name: str, rows: np.ndarray, dim: int) -> Tensor:
    tensor = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    if tensor.ndim != 2 or tensor.shape[1] != dim:
        raise UserError(f"similarity: {name} is {list(tensor.shape)}, give [N, {dim}]")
    bad = (~tensor.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise UserError(
            f"similarity: row {int(bad[0])} of {name} is NaN or infinite: leave that clip out"
        )
    return tensor


def _batch(modality: Modality, group: list[Clip], share: float | None) -> Batch:
    """Return clips as a batch; see `clip4vla.loading.collate`.

    One channel is repeated where other clips have three. share: of every sound.
    """
    counts = torch.tensor([len(clip.images) for clip in group])
    longest = max(int(counts.max()), 1)
    some = [clip.images for clip in group if len(clip.images)] or [group[0].images]
    channels = max(images.shape[1] for images in some)
    shape = len(group), longest, channels, *some[0].shape[2:]
    images = torch.zeros(shape, dtype=torch.from_numpy(some[0]).dtype)  # [B, n, C, H, W]
    for row, clip, count in zip(images, group, counts, strict=True):
        if count:
            row[:count] = torch.from_numpy(clip.images)
    mask = torch.arange(longest) < counts[:, None]
    batch: Batch = {"frame_mask": mask, "audio_mask": mask}
    batch["frames" if modality == "vision" else "audio"] = images
    if share is not None:
        batch["nonverbal_share"] = torch.full((len(group),), share)
    return batch
