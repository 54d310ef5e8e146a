"""The embedder of texts, sounds and videos, which `clip4vla.load` returns."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.checkpoints.checkpoint import Checkpoint, read_checkpoint
from clip4vla.checkpoints.hub import Source, source_of
from clip4vla.common.device import autocast, pick_device, to_device
from clip4vla.common.errors import UserError
from clip4vla.config.sections import Modality
from clip4vla.inference.features import text_features
from clip4vla.media.status import AudioStatus
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.models.common.pooling import pool
from clip4vla.models.common.scorer import Scorer
from clip4vla.models.common.task import Batch
from clip4vla.models.family import family_of
from clip4vla.search.asked import read_media
from clip4vla.search.encoder import Encoder, moved
from clip4vla.search.media import Kind, MediaWindow, audio_clip, audio_clips, grouped, video_clips
from clip4vla.tracking.recorded import check_recorded

BATCH = 64  # frames or segments that pass a tower at once: about 1 GB of a ViT-B/32 on a GPU

Sound = str | Path | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Embedder(Checkpoint):
    """A model ready to embed. All vectors are float32 [N, D], of length 1, or zero for silence.

    Vectors of texts, sounds and videos are comparable: their products are cosines. The features of
    the towers are pooled as in the paper (facts 5.1): each frame or segment is normalised to length
    1, then their mean. A clip's vector does not depend on other clips, up to float32 rounding.
    """

    device: torch.device = field(default_factory=pick_device)
    batch_size: int = BATCH  # approximate frames or segments at once: memory and speed only
    source: Source | None = None  # where the weights came from, for the provenance of outputs

    @property
    def dim(self) -> int:
        """D, the length of every vector: 512 for ViT-B/32."""
        return self.model.dim

    @cached_property
    def ranker(self) -> Scorer:
        """Return how texts and clips are compared by vectors."""
        model = self.settings.model
        return family_of(model.family).ranker(self.model, model, self.settings.modalities)

    @cached_property
    def scorer(self) -> Scorer:
        """Return how the checkpoint's evaluation compares texts and clips: `ranker`, or better."""
        model = self.settings.model
        return family_of(model.family).scorer(
            self.model, model, self.settings.modalities, rescores=model.rescores
        )

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of texts, float32 [N, D]. Texts are cut to `settings.inputs.max_words`.

        Raises UserError for an item that is not a text.
        """
        if isinstance(texts, str):
            raise UserError("texts: one text. Fix: give a list of texts")
        texts = list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {row}: {text!r} is not a text. Fix: leave it out")
        if not texts:
            return self.text_features([""])["text"][:0].numpy()
        return self.text_features(texts)["text"].numpy()

    def text_features(self, texts: Sequence[str], scorer: Scorer | None = None) -> Features:
        """Return what a scorer, by default `ranker`, compares of texts, on the CPU."""
        return text_features(
            self.model,
            [*texts],
            self.settings.inputs.max_words,
            self.device,
            features_of=(scorer or self.ranker).text_features,
        )

    def embed_audio(
        self, sounds: Sequence[Sound], nonverbal_share: float | None = None
    ) -> np.ndarray:
        """Return vectors of sounds, float32 [N, D]; zeros for silence and videos without sound.

        sounds: paths of sound or video files, or pairs (samples, rate): samples [n] or [C, n],
        floats of full scale 1 or integers of the full scale of their type, at `rate` Hz. The
        central `settings.inputs.max_segments` segments of 1.792 s are used. nonverbal_share: the
        type token, from 0 for speech [VB] to 1 for other sound [NB]; None: that of the
        checkpoint's training, or both tokens, which are not mixed by a share. Raises UserError,
        with the file or row, for files that cannot be decoded and samples that are NaN or infinite.
        """
        nonverbal_share = self.share_of_nb(nonverbal_share)
        clips = (self._audio_clip(sound, row) for row, sound in enumerate(sounds))
        return self._pooled("audio", clips, nonverbal_share)

    def embed_video(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Return vectors of the pictures of videos, float32 [N, D].

        At most `settings.inputs.max_frames` frames are used, chosen by `frame_choice`. Raises
        UserError, with the file, for files without pictures or that cannot be decoded.
        """
        clips = (_decoded(path, next(video_clips(path, self.settings))) for path in paths)
        return self._pooled("video", clips, None)

    def embed_clips(
        self, paths: Sequence[str | Path], nonverbal_share: float | None = None
    ) -> dict[str, np.ndarray]:
        """Return the vectors of clips by which the checkpoint ranks them for texts, by name.

        Sound and pictures are encoded together; files longer than five minutes by these. Arrays
        are float32 [N, D], or [N, Q, D] for a family that keeps several vectors of a clip, with
        zeros where it has nothing; `has_picture` and `has_audio` are bool [N]. Raises UserError as
        `embed_video`.
        """
        encoder = Encoder(self, [self.share_of_nb(nonverbal_share)])
        parts: list[Features] = []
        for path in paths:
            piece = read_media(Path(path), self.settings, self.settings.modalities)
            features, _ = encoder.features([piece])
            features["has_picture"] = torch.tensor([bool(piece.jpegs)])
            features["has_audio"] = torch.tensor([piece.log_mel is not None])
            parts.append(features)
        return {name: x.numpy() for name, x in joined(parts).items()} if parts else {}

    def rank(self, text: np.ndarray, clips: dict[str, np.ndarray]) -> np.ndarray:
        """Return the similarities of texts [Q, D] with the clips of `embed_clips`, [Q, N].

        They are those of the checkpoint's evaluation, before a second look at the first ones; a
        clip without pictures counts by its sound alone.
        """
        device = self.ranker.scored_on(self.device)
        tensors = moved({name: torch.from_numpy(x) for name, x in clips.items()}, device)
        seen = tensors.pop("has_picture")
        texts = torch.from_numpy(np.asarray(text, dtype=np.float32)).to(device)
        with torch.no_grad():
            found = self.ranker.scores({"text": texts}, tensors, 1.0)
        both = found.get("t_va", next(iter(found.values())))
        return both.where(seen, found.get("t_a", both)).cpu().numpy()

    def similarity(
        self, text: np.ndarray, video: np.ndarray | None = None, audio: np.ndarray | None = None
    ) -> np.ndarray:
        """Return similarities of texts [Q, D] with clips [N, D], float32 [Q, N] in -1..1.

        They are cosines; with both modalities their mean (global-to-global), or their sum weighted
        by the checkpoint's gate. A clip whose audio is zero counts by its pictures alone. Raises
        UserError, with the row, for vectors that are NaN or infinite.
        """
        self._check_texts()
        named = {"text": text, "video": video, "audio": audio}
        tensors = {
            name: None if rows is None else _vectors(name, rows, self.dim)
            for name, rows in named.items()
        }
        text_vectors, video_vectors, audio_vectors = tensors.values()
        if video_vectors is None and audio_vectors is None:
            raise UserError("similarity: no vectors of clips. Fix: give video, audio or both")
        if (
            video_vectors is not None
            and audio_vectors is not None
            and len(video_vectors) != len(audio_vectors)
        ):
            raise UserError(
                f"similarity: {len(video_vectors)} vectors of video and {len(audio_vectors)} of "
                "audio. Fix: give one of each for every clip"
            )
        has_audio = None if audio_vectors is None else audio_vectors.any(dim=1)  # [N]
        device = self.model.compared_on(self.device)
        assert text_vectors is not None

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        with torch.no_grad():
            similarities = self.model.compare(
                text_vectors.to(device),
                moved(video_vectors),
                moved(audio_vectors),
                1.0,
                moved(has_audio),
            )
        name = "t_va" if len(similarities) == 3 else next(iter(similarities))
        return similarities[name].cpu().numpy()

    def share_of_nb(self, nonverbal_share: float | None) -> float:
        """Return the share of [NB] to use, 0..1.

        It is 0.5, which is not read, where tokens are not mixed. Raises UserError if the checkpoint
        needs a share and none is given, and if one is given to a checkpoint in which it has no
        effect.
        """
        if not self.settings.model.mixes_type_tokens:
            if nonverbal_share is not None:
                raise UserError(
                    "nonverbal_share: this checkpoint has no type token that is mixed. Fix: leave "
                    "nonverbal_share out"
                )
            return 0.5
        if nonverbal_share is None:
            nonverbal_share = self.settings.nonverbal_share
        if nonverbal_share is None:
            raise UserError(
                "nonverbal_share: this checkpoint was trained with several type tokens. Fix: give "
                "nonverbal_share, from 0 for speech to 1 for other sound (0.5 is usual)"
            )
        if not 0 <= nonverbal_share <= 1:
            raise UserError(f"nonverbal_share: {nonverbal_share} is not valid. Fix: give 0 to 1")
        return float(nonverbal_share)

    @torch.no_grad()
    def encode(
        self, kind: Kind, groups: Iterable[list[MediaWindow]], nonverbal_share: float | None
    ) -> Iterator[tuple[MediaWindow, Tensor]]:
        """Yield each clip with the features of its tower, float32 [n, D], not normalised."""
        modality: Modality = "audio" if kind == "audio" else "vision"
        for group in groups:
            batch = to_device(_batch(modality, group, nonverbal_share), self.device)
            with autocast(self.device, self.model):
                encoded = self.model.whole(self.model.encode_clips(batch, [modality]))
            features, mask = encoded[modality]
            for clip, row, valid in zip(group, features.float().cpu(), mask.cpu(), strict=True):
                yield clip, row[valid]

    def _check_texts(self) -> None:
        """Raise UserError for a model whose vectors of texts compare with no others."""
        if not self.settings.model.embeds_texts:
            raise UserError(
                f"texts: a model of family {self.settings.model.family} has no vectors of texts "
                "that can be compared with one of a clip. Fix: use embed_clips and rank"
            )

    def _pooled(
        self, kind: Kind, clips: Iterable[MediaWindow], nonverbal_share: float | None
    ) -> np.ndarray:
        groups = grouped(clips, self.batch_size)
        rows = [pooled(features) for _, features in self.encode(kind, groups, nonverbal_share)]
        return np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)

    def _audio_clip(self, sound: Sound, row: int) -> MediaWindow:
        if isinstance(sound, str | Path):
            return _decoded(sound, next(audio_clips(sound, self.settings)))
        try:
            samples, rate = sound
            waveform = _waveform(samples, rate)
            front_end = LogMelFrontend(self.settings.cache.log_mel)
            return audio_clip(iter([waveform]), rate, self.settings, front_end)
        except (TypeError, ValueError) as error:
            raise UserError(f"sound {row}: {error}") from None


def load(
    path: str | Path, device: str | torch.device | None = None, batch_size: int = BATCH
) -> Embedder:
    """Return the embedder of a checkpoint; see `clip4vla.load`.

    Raises UserError for a file that this project did not write, that is damaged, that differs from
    the record.json beside it, or that contains NaN or infinity; for a repository of the Hub that
    cannot be read; for a device that is not available; and for a batch_size below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is not valid. Fix: give 1 or more")
    source = source_of(path)
    check_recorded(source.path)
    return embedder_of(read_checkpoint(source.path), source, device, batch_size)


def embedder_of(
    checkpoint: Checkpoint, source: Source, device: str | torch.device | None, batch_size: int
) -> Embedder:
    """Return the embedder of a checkpoint that was read from a file; see `load`."""
    for name, values in checkpoint.model.named_parameters():
        if not values.isfinite().all():
            raise UserError(
                f"{source.path}: {name} contains NaN or infinity. Fix: use weights of another "
                "training"
            )
    target = pick_device(device)
    model = checkpoint.model.to(target)
    return Embedder(model, checkpoint.settings, checkpoint.metadata, target, batch_size, source)


def pooled(features: Tensor) -> np.ndarray:
    """Return the pooled vector, float32 [D], of features [n, D]; zeros if n is 0 (facts 5.1)."""
    if not len(features):
        return np.zeros(features.shape[1], dtype=np.float32)
    mask = torch.ones(1, len(features), dtype=torch.bool)
    return pool(features[None], mask)[0].numpy()


def _decoded(path: str | Path, clip: MediaWindow) -> MediaWindow:
    """Return the clip. Raises UserError if it could not be decoded; no sound is silence."""
    if clip.images.shape[0] or clip.status in (
        AudioStatus.DIGITAL_SILENCE,
        AudioStatus.NO_AUDIO_STREAM,
    ):
        return clip
    reason = f" ({clip.detail})" if clip.detail else ""
    raise UserError(f"{path}: {clip.status}{reason}. Fix: correct the file, or leave it out")


def _waveform(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples [n] or [C, n] as float32 [C, n] of full scale 1. ValueError for others."""
    if not rate > 0:
        raise ValueError(f"a rate of {rate} samples per second. Fix: give one above 0")
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples of shape {list(samples.shape)}. Fix: give [n] or [channels, n]")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples of type {samples.dtype}. Fix: give floats or signed integers")
    if not np.isfinite(samples).all():
        raise ValueError("samples are NaN or infinite. Fix: correct it, or leave it out")
    return np.atleast_2d(samples).astype(np.float32)


def _vectors(name: str, rows: np.ndarray, dim: int) -> Tensor:
    """Return vectors as a float32 tensor [N, D]. UserError for others and for NaN or infinity."""
    tensor = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    if tensor.ndim != 2 or tensor.shape[1] != dim:
        raise UserError(f"similarity: {name} is {list(tensor.shape)}. Fix: give [N, {dim}]")
    bad = (~tensor.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise UserError(
            f"similarity: row {int(bad[0])} of {name} is NaN or infinite. Fix: leave it out"
        )
    return tensor


def _batch(modality: Modality, group: list[MediaWindow], nonverbal_share: float | None) -> Batch:
    """Return clips as a batch; see `clip4vla.loading.collate`.

    A clip with one channel repeats it if others have three. nonverbal_share: of every sound.
    """
    counts = torch.tensor([len(clip.images) for clip in group])
    longest = max(int(counts.max()), 1)
    nonempty = [clip.images for clip in group if len(clip.images)] or [group[0].images]
    channels = max(images.shape[1] for images in nonempty)
    shape = len(group), longest, channels, *nonempty[0].shape[2:]
    images = torch.zeros(shape, dtype=torch.from_numpy(nonempty[0]).dtype)  # [B, n, C, H, W]
    for row, clip, count in zip(images, group, counts, strict=True):
        if count:
            row[:count] = torch.from_numpy(clip.images)
    mask = torch.arange(longest) < counts[:, None]
    # encode_clips reads only the mask of its modality
    batch: Batch = {"frame_mask": mask, "audio_mask": mask}
    batch["frames" if modality == "vision" else "audio"] = images
    if nonverbal_share is not None:
        batch["nonverbal_share"] = torch.full((len(group),), nonverbal_share)
    return batch
