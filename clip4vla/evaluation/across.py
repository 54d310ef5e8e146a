"""Clips that find one another by sound and picture: one modality asks, the other one answers."""

import numpy as np
import pandas as pd

from clip4vla.evaluation.scoring import Scored, Scoring
from clip4vla.metrics.text_clip import rank_columns, report_retrieval


def score_across(scoring: Scoring) -> Scored:
    """Score both directions. Predictions: query, clip_id, its ranks both ways, top5.

    Every clip has a sound of its own, because silent ones are left out: one gallery.
    """
    run = scoring.run
    assert run.query != "text" and list(scoring.galleries) == [scoring.main]
    ids, similarities = scoring.clip_ids, scoring.gallery().across(run.query)
    targets = np.arange(len(ids))
    found = report_retrieval(similarities, targets, ids.tolist(), run.modalities, query=run.query)
    predictions = pd.DataFrame(
        {
            "query": targets,
            "clip_id": ids,
            **rank_columns(found, targets, run.query),
            "top5": [row.tolist() for row in ids[found.best]],
        }
    )
    each = pd.Series(found.to_clip.expected, index=targets)
    main = scoring.main
    return Scored({main: found.stated}, {main: len(ids)}, predictions, {main: each})
