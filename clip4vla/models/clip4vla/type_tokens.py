"""Possible changes of the audio type token between two stages (facts 3.2)."""

from typing import Literal

TypeToken = Literal["none", "single", "both", "background"]
CARRIES_BOTH: tuple[TypeToken, TypeToken] = ("single", "both")


def can_follow(before: TypeToken, after: TypeToken) -> bool:
    """Return whether weights trained with the token `before` can initialise a model with `after`.

    The paper pre-trains with one token for each data set and uses both afterwards: the tensors are
    the same, and both tokens use the position of the one. Every other change would use embeddings
    that were never trained, or drop trained ones.
    """
    return before == after or (before, after) == CARRIES_BOTH
