"""The similarity of a text and a clip: that of the best of the clip's queries (facts 2.2)."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clip4vla.common.device import full_precision

TEXTS = 1024  # compared at once: bounds the memory of large galleries


def best_cosines(queries: Tensor, texts: Tensor) -> Tensor:
    """Return the largest cosine of each text and the queries of each clip, float32 [C, N].

    queries: [C, Q, D] and texts: [N, D], unit vectors. The cosines of all queries are kept for no
    backward pass, but computed again: of 4096 clips and texts they would take 2.1 GB.
    """
    with full_precision(queries):
        queries = queries.float()
        parts = [
            checkpoint(_best, queries, some, use_reentrant=False)
            if torch.is_grad_enabled() and len(texts) > TEXTS
            else _best(queries, some)
            for some in texts.float().split(TEXTS)
        ]
        return torch.cat(parts, dim=1)


def _best(queries: Tensor, texts: Tensor) -> Tensor:
    return (queries.flatten(0, 1) @ texts.T).unflatten(0, queries.shape[:2]).amax(dim=1)
