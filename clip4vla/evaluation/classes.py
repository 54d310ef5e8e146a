"""Clips and the labels that they have: one each, or several."""

import numpy as np
import pandas as pd
import torch

from clip4vla.evaluation.scoring import Scored, Scoring
from clip4vla.inference.probe import class_logits, mean_over_frames
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.labels import several_labels, single_labels
from clip4vla.loading.samples import Clips
from clip4vla.loading.single_frames import SingleFrame
from clip4vla.metrics.classification import report_accuracy
from clip4vla.metrics.tagging import label_precision, report_tagging, scored_labels
from clip4vla.metrics.text_clip import similarity_name

TOP = 5  # classes that predictions name for a clip


def score_classes(scoring: Scoring, classes: list[str]) -> Scored:
    """Score clips of one label each. Predictions: clip_id, label, predicted."""
    predicted = np.array(classes)[_class_scores(scoring, classes).argmax(axis=1)]
    ids = scoring.clip_ids
    labels = np.array(single_labels(scoring.samples.items, scoring.where))
    stated, queries, each = {}, {}, {}
    for name, kept in scoring.galleries.items():
        right = labels[kept] == predicted[kept]
        some = kept.any()
        stated[name] = report_accuracy(labels[kept], predicted[kept]) if some else {"metrics": {}}
        queries[name], each[name] = int(kept.sum()), pd.Series(right.astype(float), ids[kept])
    predictions = pd.DataFrame({"clip_id": ids, "label": labels, "predicted": predicted})
    return Scored(stated, queries, predictions, each, classes)


def score_tags(scoring: Scoring, classes: list[str]) -> Scored:
    """Score clips of several labels; classes that training never saw get one constant score.

    Predictions: clip_id, labels, top5, the scores of all classes, label_precision.
    """
    labels = several_labels(scoring.samples.items, scoring.where)
    scored = scored_labels(labels, classes, _class_scores(scoring, classes))
    ids, precision = scoring.clip_ids, label_precision(scored.targets, scored.scores)
    stated: dict[str, dict[str, dict]] = {}
    queries, each = {}, {}
    for name, kept in scoring.galleries.items():
        queries[name], each[name] = int(kept.sum()), pd.Series(precision[kept], ids[kept])
        stated[name] = {"metrics": {}}
        if kept.any():
            targets, scores = scored.targets[kept], scored.scores[kept]
            stated[name] = report_tagging(targets, scores, scored.classes, ids[kept]).stated
            if not scoring.run.class_names:
                untrained = int(targets[:, len(classes) :].any(axis=0).sum())
                stated[name]["classes"] |= {"trained": len(classes), "untrained": untrained}
    best = np.argsort(-scored.scores, axis=1, kind="stable")[:, :TOP]
    predictions = pd.DataFrame(
        {
            "clip_id": ids,
            "labels": [list(names) for names in labels],
            "top5": np.array(scored.classes)[best].tolist(),
            "scores": list(scored.scores),
            "label_precision": precision,
        }
    )
    return Scored(stated, queries, predictions, each, scored.classes)


def _class_scores(scoring: Scoring, classes: list[str]) -> np.ndarray:
    """Return the probe's logits of all classes, or similarities to their names, float32 [N, C]."""
    if scoring.run.class_names:
        similarities = scoring.gallery().similarities(classes)
        return similarities[similarity_name(scoring.run.modalities)].T
    count = scoring.run.test_frames
    if count is None:
        return _logits(scoring, scoring.samples).numpy()
    each = [_logits(scoring, SingleFrame(scoring.samples, i, count)) for i in range(count)]
    return mean_over_frames(torch.stack(each), scoring.run.task == "tagging").numpy()


def _logits(scoring: Scoring, samples: Clips) -> torch.Tensor:
    features = probe_features(
        scoring.model,
        samples,
        scoring.run.modalities,
        scoring.device,
        scoring.workers,
        keep=scoring.frozen_cache,
    )
    return class_logits(scoring.model, features, scoring.device)
