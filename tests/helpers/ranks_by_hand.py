"""Ranks of the tiny world's sounds and pictures, by sorting cosines: what an evaluation must find."""

import numpy as np
import torch
from tiny_world import INPUTS, source

from clip4vla.inference.features import embed_clips
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows


def ranks_by_hand(manifests, model):
    """Return the ranks of test clips, a2v and v2a; each modality is encoded without the other."""
    test = source("test")
    cache = Caches(manifests)[test]
    items = clip_items(split_rows(cache, test))
    vectors = []
    for modality in ("audio", "vision"):
        samples = samples_of(cache, items, test, INPUTS, [modality], "filter")
        found = embed_clips(model, samples, [modality], torch.device("cpu"), 0)
        vectors.append(found.vectors[modality].numpy().astype(float))
    cosines = vectors[0] @ vectors[1].T
    places = [1 + np.argsort(np.argsort(-x, axis=1), axis=1) for x in (cosines, cosines.T)]
    return [np.diag(place) for place in places]
