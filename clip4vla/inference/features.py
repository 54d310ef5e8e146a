"""Features of a whole split: pooled clips and texts (facts 5.1), means for the probe (facts 9)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from clip4vla.common.device import autocast, to_device
from clip4vla.common.errors import UserError
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.loading.loader import WHOLE, Part, batches_of, in_order
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.tokenizer import tokenize
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.pooling import normalise, pool

CLIPS, TEXTS = 32, 256  # in one batch; constants, because they can change the last bits


@dataclass(frozen=True)
class ClipFeatures:
    """One vector per clip and modality, float32 on the CPU; None for a modality not asked for.

    `has_audio` [N]: whether audio counts for the clip (`similarities`); `heard` [N]: whether it has
    a segment at all, its own or a donor's.
    """

    clip_ids: list[str]
    vision: Tensor | None  # [N, D]
    audio: Tensor | None  # [N, D]
    has_audio: Tensor  # bool [N]
    heard: Tensor  # bool [N]


def embed_clips(model: ClipModel, samples: ClipSamples, *given, **options) -> ClipFeatures:
    """Features of every sample, in order; arguments as of `clip_batches`."""
    return joined_clips(samples, clip_batches(model, samples, *given, **options))


NumberedBatch = tuple[int, dict[str, Tensor]]


@torch.no_grad()
def clip_batches(
    model: ClipModel,
    samples: ClipSamples,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    reduce: Callable[[Tensor, Tensor], Tensor] = pool,
    mix: Callable[[Encoded], Encoded] | None = None,
    part: Part = WHOLE,
) -> list[NumberedBatch]:
    """Features of the clips, or of one rank's part of them, by the number of their batch.

    The model is put into evaluation mode. reduce: from features [B, S, D] and mask [B, S] to
    [B, D]; `pool`, or `masked_mean`. mix: changes what `encode_clips` gives before it is reduced.
    """
    model.eval()
    found = []
    for number, batch in batches_of(samples, CLIPS, workers, device, part):
        batch, features = to_device(batch, device), {}
        with autocast(device, model):
            encoded = model.encode_clips(batch, modalities)
            check_finite(batch["clip_id"], encoded)
            if mix is not None:
                encoded = mix(encoded)
            for name, (sequence, mask) in encoded.items():
                features[name] = reduce(sequence, mask).cpu()
        features["has_audio"] = batch["has_audio"].cpu()
        features["heard"] = batch["audio_mask"].any(1).cpu()
        found.append((number, features))
    return found


def joined_clips(samples: ClipSamples, batches: list[NumberedBatch]) -> ClipFeatures:
    """All batches of `clip_batches`, from one rank or several, as features in order."""
    parts = [features for _, features in sorted(batches, key=itemgetter(0))]
    names = ("vision", "audio", "has_audio", "heard")
    joined = {
        name: torch.cat([part[name] for part in parts]) if name in parts[0] else None
        for name in names
    }
    return ClipFeatures([clip_id for clip_id, _, _ in samples.items], **joined)


def check_finite(clip_ids: list[str], encoded: Encoded) -> None:
    """Raise UserError, naming the clip, for features that are NaN or infinite."""
    for sequence in encoded.values():
        broken = (~sequence.features.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(broken):
            raise UserError(
                f"clip {clip_ids[int(broken[0])]}: its features are not finite: the weights or its "
                "cache entry are broken; check the training curve, or cache its shard again"
            )


@torch.no_grad()
def embed_texts(model: ClipModel, texts: list[str], max_words: int, device: torch.device) -> Tensor:
    """Normalised end-token features of texts, float32 [Q, D] on the CPU."""
    model.eval()
    parts = []
    for rows in track(in_order(len(texts), TEXTS), "embed texts"):
        tokens = tokenize([texts[i] for i in rows], max_words).to(device)
        with autocast(device, model):
            parts.append(normalise(model.encode_text(tokens)[1]).cpu())
    return torch.cat(parts)
