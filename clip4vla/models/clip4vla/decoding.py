"""Decoding of captions from the caption generator (facts 8.3)."""

import torch

from clip4vla.config.sections import Decoding
from clip4vla.loading.tokens import CAPTION
from clip4vla.models.clip4vla.decoder_steps import CachedSteps, CaptionModel, UncachedSteps
from clip4vla.models.common.beam_search import Caption, DecoderSteps, beam_search
from clip4vla.models.common.encoded import Encoded


@torch.no_grad()
def decode(model: CaptionModel, clip: Encoded, decoding: Decoding, max_words: int) -> list[Caption]:
    """Write a caption for every clip of a batch, independent of the other clips.

    model: a CLIP4VLA with a captioner, in evaluation mode. clip: vision [B, F, D], audio [B, S, D],
    or one of them. max_words: the maximum number of tokens, including the end token; at most the
    captioner's `max_words`, because the start token needs a position and the last token none.

    ValueError when the model is in training mode, `clip` is empty, or `max_words` exceeds the
    captioner's.
    """
    captioner = model.captioner
    assert captioner is not None
    if model.training or captioner.training:
        raise ValueError("decoding needs model.eval(): dropout would change the words")
    if not clip:
        raise ValueError("decoding needs vision, audio or both")
    if not 1 <= max_words <= captioner.max_words:
        raise ValueError(f"max_words is {max_words}; the captioner has 1 to {captioner.max_words}")
    first = next(iter(clip.values())).features
    beams = decoding.beams if decoding.method == "beam" else 1
    steps: DecoderSteps
    if decoding.cache:
        steps = CachedSteps(model, clip, room=beams * max_words)
    else:
        steps = UncachedSteps(model, clip, decoding.positions)
    return beam_search(
        steps,
        clips=len(first),
        beams=beams,
        max_words=max_words,
        device=first.device,
        control=CAPTION,
        length_penalty=decoding.length_penalty,
        stopping=decoding.stopping,
    )
