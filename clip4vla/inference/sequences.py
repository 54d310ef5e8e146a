"""Un-pooled features of a whole split, for fusions that read positions (facts 7.1)."""

from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from clip4vla.common.device import autocast, to_device
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.inference.features import CLIPS, TEXTS, check_finite, encode_clips
from clip4vla.loading.loader import WHOLE, Part, batches_of, in_order
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.tokenizer import PAD, tokenize
from clip4vla.models.clip4vla.model import CLIP4VLA


class ClipSequences(NamedTuple):
    """Un-normalised frames and segments, float32, padded to the longest clip, on the CPU.

    None for a modality not asked for, and its mask. About 50 KB a clip at width 512.
    """

    vision: Tensor | None  # [N, F, D]
    vision_mask: Tensor | None  # bool [N, F]
    audio: Tensor | None  # [N, S, D]
    audio_mask: Tensor | None  # bool [N, S]


@torch.no_grad()
def sequence_batches(
    model: CLIP4VLA,
    samples: ClipSamples,
    modalities: Iterable[Modality],
    device: torch.device,
    workers: int,
    part: Part = WHOLE,
) -> list[tuple[int, tuple]]:
    """Frames and segments of every sample, or of one rank's part, by the number of their batch.

    The model is put into evaluation mode.
    """
    model.eval()
    found = []
    for number, batch in batches_of(samples, CLIPS, workers, device, part):
        with autocast(device, model):
            seen = encode_clips(model, to_device(batch, device), modalities)
        check_finite(batch["clip_id"], seen[0], seen[2])
        found.append((number, tuple(None if x is None else x.cpu() for x in seen)))
    return found


def joined_sequences(batches: list[tuple[int, tuple]]) -> ClipSequences:
    """All batches of `sequence_batches`, from one rank or several, in order."""
    parts = [features for _, features in sorted(batches, key=itemgetter(0))]
    vision, vision_mask, audio, audio_mask = zip(*parts, strict=True)
    return ClipSequences(*_joined(vision, vision_mask), *_joined(audio, audio_mask))


def _joined(features: tuple, masks: tuple) -> tuple[Tensor | None, Tensor | None]:
    """Batches [B, n, D] and bool [B, n] as one, padded to the longest."""
    if features[0] is None:
        return None, None
    longest = max(mask.shape[1] for mask in masks)
    rooms = [longest - mask.shape[1] for mask in masks]
    padded = [pad(x.float(), (0, 0, 0, room)) for x, room in zip(features, rooms, strict=True)]
    marked = [pad(mask, (0, room)) for mask, room in zip(masks, rooms, strict=True)]
    return torch.cat(padded), torch.cat(marked)


@torch.no_grad()
def embed_words(
    model: CLIP4VLA, texts: list[str], max_words: int, device: torch.device
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
