"""Possible changes of the audio type token between two stages (facts 3.2)."""

from typing import Literal

TypeToken = Literal["none", "single", "both", "background"]
CARRIES_BOTH: tuple[TypeToken, TypeToken] = ("single", "both")


def can_follow(before: TypeToken, after: TypeToken) -> bool:
    """Return whether a model with the tokens `after` can start from weights trained with `before`.

    The paper pre-trains with one token for each data set and carries both afterwards: the tensors
    are the same, and the position of the one token serves both. Every other change would use
    embeddings that were never trained, or drop some that were.
    """
    return before == after or (before, after) == CARRIES_BOTH
