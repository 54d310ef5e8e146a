"""Captions -> token ids of CLIP's byte-pair vocabulary and three more (facts 4.2)."""

from collections.abc import Iterable

import torch

from clip4vla.common.clip_tokenizer import clip_tokenizer
from clip4vla.loading.tokens import END, PAD, START


def tokenize(texts: list[str], max_words: int) -> torch.Tensor:
    """Return int64 [N, max_words]: start, the text cut to fit, end, then pads (id 49410)."""
    return framed(map(clip_words, texts), max_words, start=START, end=END, pad=PAD)


def clip_words(text: str) -> list[int]:
    """Return the ids of a text without start and end.

    A caption that spells out a control token holds no control token: the end is found by its id.
    """
    return [token for token in clip_tokenizer().encode(text) if token < START]


def framed(
    rows: Iterable[list[int]], max_words: int, start: int, end: int, pad: int
) -> torch.Tensor:
    """Return int64 [N, max_words]: start, the ids of a row cut to fit, end, then pads."""
    framed_rows = [[start, *ids][: max_words - 1] + [end] for ids in rows]
    padded = [ids + [pad] * (max_words - len(ids)) for ids in framed_rows]
    return torch.tensor(padded, dtype=torch.long).view(-1, max_words)
