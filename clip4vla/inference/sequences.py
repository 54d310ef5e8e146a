"""Un-pooled features of a whole split, for fusions that read positions (facts 7.1)."""

from collections.abc import Iterable
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.device import autocast, to_device
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.inference.features import CLIPS, TEXTS, check_finite
from clip4vla.loading.loader import WHOLE, Part, batches_of, in_order
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.tokenizer import PAD, tokenize
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Encoded, Sequence, each


@torch.no_grad()
def sequence_batches(
    model: ClipModel,
    samples: ClipSamples,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    part: Part = WHOLE,
) -> list[tuple[int, Encoded]]:
    """Frames and segments of every sample, or of one rank's part, by the number of their batch.

    The model is put into evaluation mode.
    """
    model.eval()
    found = []
    for number, batch in batches_of(samples, CLIPS, workers, device, part):
        with autocast(device, model):
            encoded = model.encode_clips(to_device(batch, device), modalities)
        check_finite(batch["clip_id"], encoded)
        found.append((number, each(encoded, Tensor.cpu)))
    return found


def joined_sequences(batches: list[tuple[int, Encoded]]) -> Encoded:
    """Return all batches of `sequence_batches`, from one rank or several, in order.

    Float32, padded to the longest clip, on the CPU: about 50 KB a clip at width 512.
    """
    parts = [encoded for _, encoded in sorted(batches, key=itemgetter(0))]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[Sequence]) -> Sequence:
    """Return batches [B, n, D] and bool [B, n] as one, padded to the longest."""
    longest = max(part.mask.shape[1] for part in parts)
    features, masks = [], []
    for part in parts:
        room = longest - part.mask.shape[1]
        features.append(pad(part.features.float(), (0, 0, 0, room)))
        masks.append(pad(part.mask, (0, room)))
    return Sequence(torch.cat(features), torch.cat(masks))


@torch.no_grad()
def embed_words(
    model: ClipModel, texts: list[str], max_words: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Every token's un-normalised feature, float32 [Q, L, D], and its mask, bool [Q, L].

    On the CPU; L is `max_words`. About 64 KB a text at 32 words and width 512.
    """
    model.eval()
    features, masks = [], []
    for rows in track(in_order(len(texts), TEXTS), "embed texts"):
        tokens = tokenize([texts[i] for i in rows], max_words)
        with autocast(device, model):
            features.append(model.encode_text(tokens.to(device))[0].float().cpu())
        masks.append(tokens != PAD)
    return torch.cat(features), torch.cat(masks)
