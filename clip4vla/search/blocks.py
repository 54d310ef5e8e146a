"""Windows as they are compared with a query, some at a time."""

from dataclasses import dataclass

import numpy as np
import torch

from clip4vla.models.common.batch_features import Features


@dataclass(frozen=True)
class Block:
    """Some windows, as they are compared: their numbers, what they have, and their vectors."""

    rows: np.ndarray  # int64 [n]
    has_picture: torch.Tensor  # bool [n]
    has_sound: torch.Tensor
    features: Features  # float32 [n, D] or [n, Q, D], zeros where there is nothing
