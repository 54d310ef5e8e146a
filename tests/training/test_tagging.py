"""Tagging of clips with several labels, from a probe or whole towers to metrics, page and test."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from tiny_world import INPUTS, build_world, colour, finetune, optimiser, source

from clip4vla.cache.clips import ClipCache
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.config.variant import Variant
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.probe import mean_over_frames
from clip4vla.loading.targets import ClassTargets
from clip4vla.pages.examples import write_examples
from clip4vla.runs.paired import compare_runs
from clip4vla.training.outputs import OUTPUTS
from clip4vla.training.train import train

KINDS = {
    "probe": {},
    "fully": {"trainable": "all", "label_smoothing": 0.1, "sampling": "balanced"},
}


def labels_of(clip_id):
    """A colour, which is seen and heard; one more for two of them; one of the test split alone."""
    name = colour(clip_id)
    labels = [name, *(["of a rainbow, at an end"] if name != "green" else [])]
    return labels + (["unseen"] if clip_id == "e1" else [])


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    def labelled(splits):
        return splits.assign(labels=splits.clip_id.map(labels_of))

    return build_world(tmp_path_factory.mktemp("tagging") / "world", labelled)


def tagging(kind="probe", **given):
    return finetune("tagging", missing_audio="none", **(KINDS[kind] | given))


@pytest.fixture(scope="module")
def trained(manifests, tmp_path_factory):
    """The outputs of both kinds."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        run = tagging(kind, optimiser=optimiser(epochs=12))
        train(run, manifests, None, {}, None, folders[kind] / "state", folders[kind])
    return folders


def scored(manifests, trained, out, **given):
    run = Evaluate(
        start="0" * 12, task="tagging", test=source("test"), missing_audio="none",
        model=tagging().model, inputs=INPUTS, **given,
    )  # fmt: skip
    evaluate(run, manifests, trained / "model.safetensors", {}, None, out, "c0ffee")
    return read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_selects_by_map_and_names_its_classes(trained, kind):
    summary = read_json(trained[kind] / "train.json")
    assert summary["classes"] == ["blue", "green", "of a rainbow, at an end", "red"]
    assert summary["val_metric"] == "mAP" and summary["val_value"] > 90
    rows = pd.read_json(trained[kind] / "metrics.jsonl", lines=True)
    assert {"val/mAP", "val/mAUC"} < set(rows.columns)


def test_one_class_cannot_be_told_from_others(tmp_path):
    def labelled(splits):
        return splits.assign(labels=[["red"]] * len(splits))

    world = build_world(tmp_path / "world", labelled)
    run = finetune("classification", missing_audio="none")
    with pytest.raises(UserError, match="all clips have the label 'red'.* two classes or more"):
        train(run, world, None, {}, None, tmp_path / "state", tmp_path)


def test_the_first_loss_is_that_of_even_odds(trained):
    """A probe is initialised near zero: the mean over classes of ln 2."""
    rows = pd.read_json(trained["probe"] / "metrics.jsonl", lines=True)
    assert rows["train/loss"].iloc[0] == pytest.approx(np.log(2), abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_scikit_learn_and_count_the_classes(
    manifests, trained, tmp_path, kind
):
    metrics, predictions = scored(manifests, trained[kind], tmp_path)
    classes = metrics["classes"]
    assert classes == ["blue", "green", "of a rainbow, at an end", "red", "unseen"]
    targets = np.array([[name in labels for name in classes] for labels in predictions["labels"]])
    assert targets.sum(axis=1).tolist() == [len(labels_of(c)) for c in predictions.clip_id]
    scores = np.stack(predictions["scores"])
    precisions = [average_precision_score(t, s) for t, s in zip(targets.T, scores.T, strict=True)]
    found = metrics["galleries"]["all"]
    assert found["metrics"]["mAP"] == pytest.approx(100 * np.mean(precisions))
    assert precisions[-1] == pytest.approx(1 / 5)  # training never saw it: its share
    counts = {"counted": 5, "without_positives": 0, "trained": 4, "untrained": 1}
    assert found["classes"].items() >= counts.items()
    assert predictions.label_precision.mean() == pytest.approx(
        100 * label_ranking_average_precision_score(targets, scores)
    )
    assert all(len(set(names)) == 5 and names[-1] == "unseen" for names in predictions.top5)


def test_variants_gains_a_page_and_a_paired_test(manifests, trained, tmp_path):
    for kind in KINDS:
        out = tmp_path / kind
        variants = [Variant(audio="silent"), Variant(frames=False)]
        metrics, predictions = scored(manifests, trained[kind], out, variants=variants)
        silent = metrics["variants"]["audio=silent"]["galleries"]["with_sound"]["metrics"]
        assert {"mAP", "mAUC", "label_precision_helped", "label_precision_hurt"} <= set(silent)
        assert "top5/audio=silent" in predictions
        for name, gallery in metrics["variants"]["audio=silent"]["galleries"].items():
            told = predictions[predictions[f"label_precision/{name}/audio=silent"].notna()]
            both, alone = (
                np.array([top[0] in some for top, some in zip(best, told["labels"], strict=True)])
                for best in (told.top5, told["top5/audio=silent"])
            )
            found = gallery["metrics"]["modality_confusion"]
            assert found == pytest.approx(100 * np.mean(alone & ~both))
        assert metrics["galleries"]["all"]["metrics"]["modality_confusion"] == 0
        write_examples(ClipCache(next(iter(manifests.values()))), out)
        page = (out / "examples.html").read_text()
        assert "5 classes count" in page and "of a rainbow, at an end" in page
    one, two = tmp_path / "probe", tmp_path / "fully"
    differences = compare_runs(one, two).differences
    values = [
        read_json(f / "metrics.json")["galleries"]["all"]["metrics"]["mAP"] for f in (one, two)
    ]
    assert [differences["mAP"].first, differences["mAP"].second] == pytest.approx(values)


def test_probabilities_are_averaged_over_frames(manifests, trained, tmp_path):
    """By features that variants share, too."""
    given = {"modalities": ["vision", "audio"]}
    _, whole = scored(manifests, trained["probe"], tmp_path / "all", **given)
    _, one = scored(manifests, trained["probe"], tmp_path / "1", test_frames=1, **given)
    _, two = scored(manifests, trained["probe"], tmp_path / "2", test_frames=2, **given)
    scores = [np.stack(table["scores"]) for table in (whole, one, two)]
    assert not np.allclose(scores[0], scores[1]) and not np.allclose(scores[1], scores[2])
    variants = [Variant(audio="shuffled")]
    _, shared = scored(
        manifests, trained["probe"], tmp_path / "v", test_frames=2, variants=variants, **given
    )
    assert np.allclose(np.stack(shared["scores"]), scores[2], atol=1e-4)


def test_the_mean_over_frames_is_that_of_probabilities():
    logits = torch.tensor([[[2.0, -1.0]], [[0.5, 60.0]]])  # [K, N, C]
    sigmoids = mean_over_frames(logits, several=True)
    assert torch.allclose(sigmoids.sigmoid(), logits.sigmoid().mean(0))
    assert sigmoids.isfinite().all()
    softmaxes = mean_over_frames(logits, several=False)
    assert torch.allclose(softmaxes.exp(), logits.softmax(2).mean(0))


def test_balanced_full_fine_tuning_stopped_anywhere_ends_with_the_same_bits(manifests, tmp_path):
    run, stops = tagging("fully", optimiser=optimiser(microbatch=3)), 0
    train(run, manifests, None, {}, None, tmp_path / "state", tmp_path / "whole")
    while True:
        try:
            parts = tmp_path / "parts"
            train(run, manifests, None, {}, None, parts / "s", parts, max_seconds=0.0)
            break
        except RetryLater:
            stops += 1
    assert stops >= 4
    for name in OUTPUTS:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_several_labels_are_no_classification(manifests, tmp_path):
    with pytest.raises(UserError, match="has 2 labels .* Fix: set `task: tagging`"):
        run = finetune("classification")
        train(run, manifests, None, {}, None, tmp_path / "state", tmp_path)


def test_targets_are_numbers_or_shares_of_classes():
    classes = ["a", "b", "c", "d"]
    one, several = [("c",), ("a",)], [("c", "a"), ("d",)]
    assert ClassTargets(classes, shares=False)(one).tolist() == [2, 0]
    shares = ClassTargets(classes, shares=True)(several)
    assert shares.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    smooth = ClassTargets(classes, shares=True, smoothing=0.2)(one)
    assert torch.allclose(smooth[0], torch.tensor([0.05, 0.05, 0.8, 0.05]))
