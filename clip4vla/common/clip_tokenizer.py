"""CLIP's byte-pair tokenizer, from open_clip."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


@cache
def clip_tokenizer() -> "SimpleTokenizer":
    """Return the tokenizer. Its module is imported late: not every command reads text."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
