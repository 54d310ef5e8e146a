"""CLIP's byte-pair tokenizer, from open_clip."""

from functools import cache
from typing import TYPE_CHECKING

from clip4vla.common.late_packages import without_collection

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


@cache
def clip_tokenizer() -> "SimpleTokenizer":
    """Return the tokenizer. Its module is imported late: not every command reads text."""
    with without_collection():
        from open_clip.tokenizer import _tokenizer  # to make another takes 60 ms

    return _tokenizer
