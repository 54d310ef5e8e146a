"""Captions of clips by greedy decoding (the released code has a beam of 5, facts 8.3)."""

from collections.abc import Sequence

import torch
from open_clip.tokenizer import SimpleTokenizer

from clip4vla.config.run import Modality
from clip4vla.evaluation.device import autocast, to_device
from clip4vla.evaluation.features import CLIPS
from clip4vla.evaluation.reading import in_order, loader
from clip4vla.features.samples import ClipSamples
from clip4vla.features.text import START
from clip4vla.models.clip4vla import CLIP4VLA
from clip4vla.progress import track


@torch.no_grad()
def generate(
    model: CLIP4VLA,
    samples: ClipSamples,
    modalities: Sequence[Modality],
    device: torch.device,
    workers: int,
) -> dict[str, str]:
    """A caption for every clip. The model is put into evaluation mode."""
    model.eval()
    tokenizer = SimpleTokenizer()
    captions = {}
    batches = loader(samples, in_order(len(samples), CLIPS), workers, device)
    for batch in track(batches, "write captions"):
        batch = to_device(batch, device)
        with autocast(device):
            seen = encode_for_captions(model, batch, modalities)
            # The start token takes one of the positions that training has seen.
            ids = model.captioner.greedy(model, *seen, samples.inputs.max_words - 1)
        for clip_id, row in zip(batch["clip_id"], ids, strict=True):
            words = tokenizer.decode([token for token in row if token < START])
            captions[clip_id] = " ".join(words.split())
    return captions


def encode_for_captions(model: CLIP4VLA, batch: dict, modalities: Sequence[Modality]) -> tuple:
    """Vision [B, F, D], its mask, audio [B, S, D], its mask; None for a modality not used."""
    vision = audio = None
    if "vision" in modalities:
        vision = model.encode_vision(batch["frames"], batch["frame_mask"])
    if "audio" in modalities:
        given = batch["audio"], batch["audio_mask"], batch["nonverbal_share"]
        audio = model.encode_audio(*given)
    return vision, batch["frame_mask"], audio, batch["audio_mask"]
