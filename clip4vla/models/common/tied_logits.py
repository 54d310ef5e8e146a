"""The product of states with the embeddings of a vocabulary."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from clip4vla.common.device import full_precision

CPU_WORDS = 2048  # rows of the embedding per product: fastest on a CPU


def tied_logits(x: Tensor, words: Tensor, bias: Tensor, training: bool) -> Tensor:
    """Return logits [..., V] of x [..., D]; words: [V, D]; bias: [V].

    Outside of training in float32, even under autocast: decoding chooses words by these, and in
    bfloat16 likely words would tie.
    """
    if training:
        return linear(x, words, bias)
    with full_precision(x):
        return _exact(x.to(words.dtype), words, bias)


def _exact(x: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return linear(x, words, bias)
    # For the few rows of a decoding step, one product over all words takes 1.5 times as long.
    parts = zip(words.split(CPU_WORDS), bias.split(CPU_WORDS), strict=True)
    return torch.cat([linear(x, some, some_bias) for some, some_bias in parts], dim=-1)
