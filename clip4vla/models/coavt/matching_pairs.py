"""Matching logits of many pairs of the global batch, in bounded memory (facts 2.3)."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clip4vla.models.coavt.model import CoAVT
from clip4vla.models.coavt.negatives import Negatives
from clip4vla.models.coavt.query_layer import ClipKeys
from clip4vla.models.common.batch_features import Features
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.gather import gather, local_rows, world_size


def negative_logits(
    model: CoAVT,
    features: Features,
    rows: Tensor,
    drawn: Negatives,
    keys: ClipKeys | None,
    chunk: int | None,
) -> Tensor:
    """Return the matching logits of (drawn clip, text) and (clip, drawn text), [2 R, 2].

    features: of the global batch: tokens [N, L], and tokens of clips, `features` [N, n, W] with
    their `mask`. rows: int64 [R], the clips that take part; drawn: indices into these. Each rank
    computes the pairs of its own clips. keys: of these clips, if known; those of others are
    computed, once for all pairs of a clip in a chunk. chunk: pairs at once, whose activations are
    computed again in the backward pass; None: all at once.
    """
    everyone = torch.arange(len(features["tokens"]), device=rows.device)
    clip_of_text, text_of_clip = everyone.clone(), everyone.clone()  # of those that take no part
    clip_of_text[rows] = rows[drawn.clip_of_text]
    text_of_clip[rows] = rows[drawn.text_of_clip]
    local = local_rows(len(everyone))
    clips = torch.cat([clip_of_text[local], everyone[local]])
    texts = torch.cat([everyone[local], text_of_clip[local]])

    def keys_of(pairs: Tensor, known: bool) -> ClipKeys:
        if keys is not None and known:
            return keys.rows(clips[pairs] - local.start)
        distinct, places = clips[pairs].unique(return_inverse=True)
        clip = FeatureSequence(features["features"][distinct], features["mask"][distinct])
        found = model.query.keys_of(clip)
        return found if len(distinct) == len(pairs) else found.rows(places)

    def scored(pairs: Tensor, known: bool) -> Tensor:
        return model.matching_logits(features["tokens"][texts[pairs]], keys_of(pairs, known))

    order = clips.argsort(stable=True)  # pairs of a clip one after another
    groups = [(keys is not None, order)]
    if keys is not None and world_size() > 1:
        own = (clips[order] >= local.start) & (clips[order] < local.stop)
        groups = [(True, order[own]), (False, order[~own])]
    places, parts = [], []
    for known, some in groups:
        for pairs in some.split(chunk or len(order)) if len(some) else ():
            places.append(pairs)
            if chunk is None:
                parts.append(scored(pairs, known))
            else:
                parts.append(checkpoint(scored, pairs, known, use_reentrant=False))
    logits = torch.cat(parts)[torch.cat(places).argsort()]
    by_clip, by_text = logits.chunk(2)
    gathered = gather({"by_clip": by_clip, "by_text": by_text})
    return torch.cat([gathered["by_clip"][rows], gathered["by_text"][rows]])
