"""Zero-shot classes: clips compared with the names of classes as texts."""

import numpy as np
import pandas as pd
import pytest
from tiny_world import INPUTS, MODEL, build_world, source

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.config.variant import Variant
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.pages.examples import write_examples

CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("names") / "world")


def scored(manifests, out, **given):
    values = {"start": None, "test": source("test"), "missing_audio": "none", "model": MODEL}
    run = Evaluate(**(values | {"inputs": INPUTS, "class_names": True} | given))
    evaluate(run, manifests, None, {}, None, out, "c0ffee")
    return read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")


@pytest.mark.parametrize("modalities", [["vision"], ["vision", "audio"]])
def test_tagging_and_classification_rank_the_same_similarities(manifests, tmp_path, modalities):
    one, single = scored(manifests, tmp_path / "1", task="classification", modalities=modalities)
    many, several = scored(manifests, tmp_path / "2", task="tagging", modalities=modalities)
    assert one["classes"] == many["classes"] == CLASSES  # of all splits of the dataset
    best = [CLASSES[np.argmax(scores)] for scores in several["scores"]]
    assert list(single.predicted) == best == [names[0] for names in several.top5]
    right = 100 * np.mean(single.label == single.predicted)
    assert one["galleries"]["all"]["metrics"]["accuracy"] == pytest.approx(right)
    counts = many["galleries"]["all"]["classes"]
    assert counts["counted"] == 3 and not {"trained", "untrained"} & set(counts)


def test_a_dataset_without_labels_is_refused(tmp_path):
    world = build_world(tmp_path / "world", lambda s: s.assign(labels=[[] for _ in range(len(s))]))
    with pytest.raises(UserError, match="no clip has a label.* dataset for task: tagging"):
        scored(world, tmp_path, task="tagging")


def test_the_page_says_nothing_of_training(manifests, tmp_path):
    scored(manifests, tmp_path, task="tagging")
    write_examples(ClipCache(*manifests.values()), tmp_path)
    page = (tmp_path / "examples.html").read_text()
    assert "<p>3 classes count; 0 without positives are left out.</p>" in page


def test_variants_share_the_names(manifests, tmp_path):
    metrics, predictions = scored(
        manifests, tmp_path, task="tagging", variants=[Variant(audio="shuffled")]
    )
    assert "mAP" in metrics["variants"]["audio=shuffled"]["galleries"]["all"]["metrics"]
    assert "top5/audio=shuffled" in predictions
