"""Texts of CoAVT: CLIP's tokens, and the token that begins a prediction of words (facts 1.4)."""

from typing import Literal

from clip4vla.common.errors import UserError
from clip4vla.loading.processor import ClipProcessor
from clip4vla.loading.tokens import END, PAD, VOCABULARY, ControlTokens


class TextProcessor(ClipProcessor):
    """CLIP's tokens. Words are predicted after a token that no text has, in place of the start."""

    vocabulary = VOCABULARY
    pad = PAD
    control = ControlTokens(start=VOCABULARY - 3, end=END, pad=PAD)


def processor_of(tokenizer: Literal["clip", "bert"]) -> TextProcessor:
    """Return the processor of a tokenizer."""
    if tokenizer == "bert":
        raise UserError(
            "model.tokenizer: word pieces of BERT are not read yet. Fix: set model.tokenizer: clip"
        )
    return TextProcessor()
