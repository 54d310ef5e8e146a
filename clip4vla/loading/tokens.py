"""Ids of CLIP's byte-pair vocabulary and of three more tokens (facts 4.2)."""

from typing import NamedTuple

CLIP_VOCABULARY = 49408  # rows of CLIP's own token embedding, with start and end of a text
START, END = CLIP_VOCABULARY - 2, CLIP_VOCABULARY - 1
VOCABULARY = CLIP_VOCABULARY + 3  # a mask and an unknown token, which no caption has, and the pad
PAD = VOCABULARY - 1


class ControlTokens(NamedTuple):
    """Ids of the tokens around the words of a written caption."""

    start: int
    end: int
    pad: int | None = None  # ends a caption as well; None: never predicted


CAPTION = ControlTokens(START, END, PAD)
