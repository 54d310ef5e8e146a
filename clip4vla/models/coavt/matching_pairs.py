"""Matching logits of many pairs of the global batch, in bounded memory (facts 2.3)."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.negatives import Negatives
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.gather import gather, local_rows


def negative_logits(
    model: CoAVT, features: Features, rows: Tensor, drawn: Negatives, chunk: int | None
) -> Tensor:
    """Return the matching logits of (drawn clip, text) and (clip, drawn text), [2 R, 2].

    features: of the global batch: tokens [N, L], and tokens of clips, `features` [N, n, W] with
    their `mask`. rows: int64 [R], the clips that take part; drawn: indices into these. Each rank
    computes the pairs of its own clips. chunk: pairs at once, whose activations are computed again
    in the backward pass; None: all at once.
    """
    everyone = torch.arange(len(features["tokens"]), device=rows.device)
    clip_of_text, text_of_clip = everyone.clone(), everyone.clone()  # of those that take no part
    clip_of_text[rows] = rows[drawn.clip_of_text]
    text_of_clip[rows] = rows[drawn.text_of_clip]
    local = local_rows(len(everyone))
    clips = torch.cat([clip_of_text[local], everyone[local]])
    texts = torch.cat([everyone[local], text_of_clip[local]])

    def scored(x: Tensor, mask: Tensor, clips: Tensor, texts: Tensor) -> Tensor:
        clip = FeatureSequence(x[clips], mask[clips])
        return model.matching_logits(features["tokens"][texts], clip)

    tokens = features["features"], features["mask"]
    if chunk is None:
        logits = scored(*tokens, clips, texts)
    else:
        pairs = zip(clips.split(chunk), texts.split(chunk), strict=True)
        logits = torch.cat(
            [checkpoint(scored, *tokens, *pair, use_reentrant=False) for pair in pairs]
        )
    by_clip, by_text = logits.chunk(2)
    gathered = gather({"by_clip": by_clip, "by_text": by_text})
    return torch.cat([gathered["by_clip"][rows], gathered["by_text"][rows]])
