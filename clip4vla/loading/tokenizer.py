"""Captions -> token ids of CLIP's byte-pair vocabulary and three more (facts 4.2)."""

import torch

from clip4vla.common.clip_tokenizer import clip_tokenizer
from clip4vla.loading.tokens import END, PAD, START


def tokenize(texts: list[str], max_words: int) -> torch.Tensor:
    """Return int64 [N, max_words]: start, the text cut to fit, end, then pads (id 49410).

    A caption that spells out a control token holds no control token: the end is found by its id.
    """
    out = torch.full((len(texts), max_words), PAD, dtype=torch.long)
    for row, text in zip(out, texts, strict=True):
        words = [token for token in clip_tokenizer().encode(text) if token < START]
        ids = [START, *words][: max_words - 1] + [END]
        row[: len(ids)] = torch.tensor(ids)
    return out
