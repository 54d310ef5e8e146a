"""Clips that captions find, and captions that clips find."""

from functools import partial

import numpy as np
import pandas as pd

from clip4vla.evaluation.scoring import Scored, Scoring
from clip4vla.inference.gallery import compared, ranked
from clip4vla.inference.second_scores import SecondScores
from clip4vla.loading.loader import pair_items
from clip4vla.metrics.text_clip import (
    among,
    captions_of,
    query_numbers,
    rank_columns,
    report_retrieval,
    rescored_by,
    similarity_name,
)
from clip4vla.models.common.scorer import SecondScorer


def score_texts(scoring: Scoring) -> Scored:
    """Score both directions. Predictions: query, caption, clip_id, its ranks, top5, all in the main
    gallery.

    With `rescore`, second scores of the first candidates decide in each gallery.
    """
    run = scoring.run
    pairs = pair_items(scoring.rows, scoring.where)
    gallery = scoring.gallery()
    captions, targets = captions_of(pairs, gallery.clip_ids)
    query = query_numbers(pairs, gallery.clip_ids)
    texts, clips = gallery.features(captions)
    similarities_of = compared if run.rescore else ranked
    similarities = similarities_of(
        gallery.scorer, texts, clips, scale=gallery.scale, device=gallery.device
    )
    second = None
    if run.rescore:
        assert isinstance(gallery.scorer, SecondScorer), "checked by the config"
        second = SecondScores(gallery.scorer, texts, clips, gallery.device)
    stated: dict[str, dict[str, dict]] = {}
    queries, predictions, each = {}, pd.DataFrame(), {}
    for name, kept in scoring.galleries.items():
        some, some_targets, some_ids = among(kept, similarities, targets, gallery.clip_ids)
        queries[name], stated[name] = len(some_targets), {"metrics": {}}
        each[name] = pd.Series(dtype=float)
        if not kept.any():
            continue
        rescored = None
        if second and run.rescore:
            similarity = some[similarity_name(run.modalities)]
            assert isinstance(similarity, np.ndarray), "compared whole above"
            rescored = rescored_by(
                similarity=similarity,
                targets=some_targets,
                clip_ids=some_ids,
                top=run.rescore,
                second_scores=partial(second.among, kept[targets], kept),
            )
        found = report_retrieval(
            similarities=some,
            targets=some_targets,
            clip_ids=some_ids,
            modalities=run.modalities,
            names=scoring.names,
            rescored=rescored,
        )
        stated[name] = found.stated
        each[name] = pd.Series(found.to_clip.expected, index=query[kept[targets]])
        if name == scoring.main:
            ids = np.array(some_ids)
            predictions = pd.DataFrame(
                {
                    "query": each[name].index,
                    "caption": np.array(captions)[kept[targets]],
                    "clip_id": ids[some_targets],
                    **rank_columns(found, some_targets),
                    "top5": [row.tolist() for row in ids[found.best]],
                }
            )
    return Scored(stated, queries, predictions, each)
