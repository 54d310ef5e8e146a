"""Texts of CoAVT: CLIP's tokens or BERT's word pieces (facts 1.4, 8.6)."""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clip4vla.loading.processor import ClipProcessor
from clip4vla.loading.tokenizer import clip_words, framed
from clip4vla.models.coavt.text_ids import PAD, TEXT_IDS

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer

MARKS = re.compile(r'[.!"()*#:;~]')
MOST_WORDS = 50  # of a caption


class ClipTexts(ClipProcessor):
    """CLIP's tokens, with zeros as padding."""

    def tokenize(self, texts: list[str], max_words: int) -> Tensor:
        """Return int64 [N, max_words]: start, the text cut to fit, end, then zeros."""
        ids = TEXT_IDS["clip"]
        return framed(map(clip_words, texts), max_words, start=ids.first, end=ids.end, pad=PAD)


class BertTexts(ClipProcessor):
    """BERT's word pieces of captions that are cleaned as LAVIS cleans them.

    pieces: the vocabulary, in the order of its ids.
    """

    def __init__(self, pieces: list[str]):
        self.pieces = pieces

    @cached_property
    def tokenizer(self) -> "BertWordPieceTokenizer":
        """Return the tokenizer. Its library is loaded late: not every command reads text."""
        from tokenizers import BertWordPieceTokenizer

        vocabulary = {piece: index for index, piece in enumerate(self.pieces)}
        return BertWordPieceTokenizer(vocabulary, lowercase=True)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tokenizer to each process: the library's threads do not survive a fork."""
        return {"pieces": self.pieces}

    def tokenize(self, texts: list[str], max_words: int) -> Tensor:
        """Return int64 [N, max_words]: [CLS], the pieces cut to fit, [SEP], then zeros."""
        ids = TEXT_IDS["bert"]
        rows = (self.tokenizer.encode(clean(text), add_special_tokens=False).ids for text in texts)
        return framed(rows, max_words, start=ids.first, end=ids.end, pad=PAD)

    def words(self, ids: Iterable[int]) -> str:
        """Return the text without control tokens, its words separated by single spaces."""
        known = [token for token in ids if token < len(self.pieces)]
        text = self.tokenizer.decode(known).replace(" ' ", "'")  # the library sees single tokens
        return " ".join(text.split())


def clean(caption: str) -> str:
    """Return a caption in lower case, marks as blanks, of at most 50 words (facts 8.6)."""
    return " ".join(MARKS.sub(" ", caption.lower()).split()[:MOST_WORDS])
