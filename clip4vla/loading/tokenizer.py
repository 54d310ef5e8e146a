"""Captions -> token ids of CLIP's byte-pair vocabulary and three more (facts 4.2)."""

import functools
from typing import TYPE_CHECKING

import torch

from clip4vla.loading.tokens import END, PAD, START

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


@functools.cache
def _tokenizer() -> "SimpleTokenizer":
    """open_clip's tokenizer; imported late, because open_clip takes seconds to import."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize(texts: list[str], max_words: int) -> torch.Tensor:
    """int64 [N, max_words]: start, the text cut to fit, end, then pads (id 49410).

    A caption that spells out a control token holds no control token: the end is found by its id.
    """
    out = torch.full((len(texts), max_words), PAD, dtype=torch.long)
    for row, text in zip(out, texts, strict=True):
        words = [token for token in _tokenizer().encode(text) if token < START]
        ids = [START, *words][: max_words - 1] + [END]
        row[: len(ids)] = torch.tensor(ids)
    return out
