"""The similarity of a text and a clip: that of the best of the clip's queries (facts 2.2)."""

import torch
from torch import Tensor

from clip4vla.common.device import full_precision

TEXTS = 1024  # compared at once: bounds the memory of large galleries


def best_cosines(queries: Tensor, texts: Tensor) -> Tensor:
    """Return the largest cosine of each text and the queries of each clip, float32 [C, N].

    queries: [C, Q, D] and texts: [N, D], unit vectors.
    """
    with full_precision(queries):
        rows = queries.float().flatten(0, 1)  # [C * Q, D]
        parts = [
            (rows @ some.T).unflatten(0, queries.shape[:2]).amax(dim=1)
            for some in texts.float().split(TEXTS)
        ]
        return torch.cat(parts, dim=1)
