"""The three losses of CoAVT: contrast, matching and language (facts 2.2 to 2.4).

All are computed in float32 outside autocast.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip4vla.common.device import full_precision
from clip4vla.models.coavt.heads import LanguageHead
from clip4vla.models.coavt.similarity import best_cosines


class ContrastLogits(NamedTuple):
    """Similarities divided by the temperature, of N clips and their N texts."""

    clip_to_text: Tensor  # float32 [N, N], a row for each clip
    text_to_clip: Tensor  # float32 [N, N], a row for each text


def contrast_logits(
    queries: Tensor, texts: Tensor, temperature: Tensor, gathered_gradient: bool
) -> ContrastLogits:
    """Return the logits of the global batch.

    queries: [N, Q, D] and texts: [N, D], unit vectors. temperature: a scalar.

    gathered_gradient: both sides of a similarity get gradients. Otherwise as LAVIS, whose gathered
    vectors carry none: clip to text moves clips only, and text to clip texts only (facts 8.6).
    """
    with full_precision(queries):
        if gathered_gradient:
            by_clip = best_cosines(queries, texts) / temperature
            return ContrastLogits(by_clip, by_clip.T)
        by_clip = best_cosines(queries, texts.detach()) / temperature
        by_text = best_cosines(queries.detach(), texts).T / temperature
        return ContrastLogits(by_clip, by_text)


def contrast_loss(logits: ContrastLogits, same: Tensor, smoothing: float) -> Tensor:
    """Return the mean of the two cross-entropies, clip to text and text to clip.

    same: bool [N, N], symmetric, the positive pairs: the diagonal, or (grouped) all pairs of a clip
    and a text of the same clip, which share the target (1 - smoothing). The rest of the target is
    uniform.
    """
    with full_precision(logits.clip_to_text):
        positive = same / same.sum(dim=1, keepdim=True)  # rows sum to 1
        targets = (1 - smoothing) * positive + smoothing / len(same)
        rows, columns = (cross_entropy(x, targets.to(x.dtype)) for x in logits)
        return (rows + columns) / 2


def matching_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean cross-entropy of matching logits, [P, 2] of true pairs, [M, 2] of others."""
    logits = torch.cat([positive, negative]).float()
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(positive)] = 1
    with full_precision(logits):
        return cross_entropy(logits, labels)


class LanguageLoss(NamedTuple):
    """Sums over the words of each text, so that microbatches and ranks can be added."""

    sums: Tensor  # float32 [B], cross-entropies
    counts: Tensor  # int64 [B], words to predict

    def mean(self) -> Tensor:
        """Return the mean over all words."""
        return self.sums.sum() / self.counts.sum()


def language_loss(
    head: LanguageHead,
    words: Tensor,
    states: Tensor,
    tokens: Tensor,
    mask: Tensor,
    smoothing: float,
) -> LanguageLoss:
    """Return the cross-entropy of each next token, given the clip and the tokens before it.

    words: [V, W], see `LanguageHead`. states: [B, L, W], causal; tokens: int64 [B, L] and mask:
    bool [B, L], as the encoder read them ([DEC] first). Padding is never a target.
    """
    following, is_target = tokens[:, 1:], mask[:, 1:]
    targets = is_target.nonzero(as_tuple=True)
    # Most positions are padding, and the product with the vocabulary is the most expensive.
    logits = head(states[:, :-1][targets], words)  # [targets, V]
    with full_precision(logits):
        losses = cross_entropy(
            logits.float(), following[targets], reduction="none", label_smoothing=smoothing
        )
    by_place = losses.new_zeros(is_target.shape).index_put(targets, losses)
    return LanguageLoss(by_place.sum(dim=1), is_target.sum(dim=1))
