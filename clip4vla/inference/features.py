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
from clip4vla.loading.samples import Clips
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded
from clip4vla.models.common.pooling import normalise, pool

CLIPS, TEXTS = 32, 256  # in one batch; constants, because they can change the last bits
PRESENT = "present "  # beginning of the names of masks in batches of vectors


@dataclass(frozen=True)
class ClipFeatures:
    """Vectors of clips by name, one for each sequence of `ClipModel.whole`, on the CPU.

    present: whether the sequence has a valid position; a silent clip without a donor has no audio.
    """

    clip_ids: list[str]
    vectors: dict[str, Tensor]  # float32 [N, D]
    present: dict[str, Tensor]  # bool [N]


def embed_clips(
    model: ClipModel,
    samples: Clips,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    reduce: Callable[[Tensor, Tensor], Tensor] = pool,
) -> ClipFeatures:
    """Return features of every sample, in order.

    reduce: from features [B, S, D] and mask [B, S] to [B, D]; `pool`, or `masked_mean`.
    """
    features_of = reduced_by(model, reduce)
    batches = clip_batches(model, samples, modalities, device, workers, features_of)
    return clip_features(samples, batches)


def reduced_by(
    model: ClipModel, reduce: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Encoded], Features]:
    """Return the map of encoded clips to vectors [B, D] of whole clips, and where they are."""

    def reduced(encoded: Encoded) -> Features:
        features: Features = {}
        for name, (x, mask) in model.whole(encoded).items():
            features |= {name: reduce(x, mask), PRESENT + name: mask.any(dim=1)}
        return features

    return reduced


def clip_features(samples: Clips, batches: list["NumberedBatch"]) -> ClipFeatures:
    """Return the features of samples from all batches of `clip_batches` with `reduced_by`."""
    features = in_order_of_clips(batches)
    present = {
        name.removeprefix(PRESENT): features[name] for name in features if name.startswith(PRESENT)
    }
    return ClipFeatures(
        clip_ids=[clip_id for clip_id, _, _ in samples.items],
        vectors={name: features[name] for name in present},
        present=present,
    )


NumberedBatch = tuple[int, Features]


@torch.no_grad()
def clip_batches(
    model: ClipModel,
    samples: Clips,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    features_of: Callable[[Encoded], Features],
    part: Part = WHOLE,
) -> list[NumberedBatch]:
    """Return features of the clips, or of one rank's part of them, by the number of their batch.

    The model is put into evaluation mode. features_of: from encoded clips to the features that are
    kept, on the CPU; `has_audio` [B] is added: whether audio counts for the clip
    (`similarities`).
    """
    model.eval()
    numbered = []
    for number, batch in batches_of(samples, CLIPS, workers, device, model.processor, part):
        batch = to_device(batch, device)
        with autocast(device, model):
            encoded = model.encode_clips(batch, modalities)
            check_finite(batch["clip_id"], encoded)
            features = features_of(encoded)
        features["has_audio"] = batch["has_audio"]
        numbered.append((number, {name: x.cpu() for name, x in features.items()}))
    return numbered


def in_order_of_clips(batches: list[NumberedBatch]) -> Features:
    """Return all batches of `clip_batches`, from one rank or several, as one, in order."""
    return joined([features for _, features in sorted(batches, key=itemgetter(0))])


def check_finite(clip_ids: list[str], encoded: Encoded) -> None:
    """Raise UserError, naming the clip, for features that are NaN or infinite."""
    for sequence in encoded.values():
        broken = (~sequence.features.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(broken):
            raise UserError(
                f"clip {clip_ids[int(broken[0])]}: its features are not finite: the weights or its "
                "cache entry are corrupt. Fix: check the training curve, or cache its shard again"
            )


@torch.no_grad()
def text_features(
    model: ClipModel,
    texts: list[str],
    max_words: int,
    device: torch.device,
    features_of: Callable[[Tensor], Features],
) -> Features:
    """Return features of texts, in order, on the CPU. features_of: from token ids [B, L]."""
    model.eval()
    parts = []
    for rows in track(in_order(len(texts), TEXTS), "embed texts"):
        tokens = model.processor.tokenize([texts[i] for i in rows], max_words).to(device)
        with autocast(device, model):
            parts.append({name: x.cpu() for name, x in features_of(tokens).items()})
    return joined(parts)


def embed_texts(model: ClipModel, texts: list[str], max_words: int, device: torch.device) -> Tensor:
    """Return the normalised features of whole texts, float32 [Q, D] on the CPU."""

    def whole(tokens: Tensor) -> Features:
        return {"text": normalise(model.encode_text(tokens)[1])}

    return text_features(model, texts, max_words, device, whole)["text"]
