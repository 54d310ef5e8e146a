"""A batch that cannot be as large as asked for is reported wherever its numbers stand."""

import pytest
from tiny_world import MODEL, SPLITS, build_world, finetune, optimiser, pretrain

from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.loading.batches import FeatureBatches
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.runs.summaries import numbers
from clip4vla.training.train import train

LARGE = optimiser(epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def go(run, manifests, folder, start=None):
    train(run, manifests, start, {}, None, folder / "state", folder / "out")
    return folder / "out"


def test_log_record_weights_and_metrics_have_the_batch_that_was_used(manifests, tmp_path, capfd):
    """12 samples are in an epoch of pre-training: as many of each source as the smaller one has."""
    first = go(pretrain(optimiser=LARGE), manifests, tmp_path / "first")
    said = capfd.readouterr().err
    assert "12 samples an epoch: 1 steps of 12, 0 left out of each epoch" in said
    assert "warning: optimiser.batch_size is 64, but there are only 12 samples" in said
    assert "contrasted with fewer others" in said
    summary = read_json(first / "train.json")
    assert (summary["batch_size"], summary["epoch_samples"]) == (12, 12)
    assert summary["small_batches"] == {"pretrain": {"asked": 64, "used": 12}}

    start = first / "model.safetensors"
    tuned = finetune(optimiser=LARGE, start="a" * 12, missing_audio="none")
    second = go(tuned, manifests, tmp_path / "second", start)
    both = {"pretrain": {"asked": 64, "used": 12}, "finetune": {"asked": 64, "used": 18}}
    assert read_metadata(second / "model.safetensors")["small_batches"] == both
    told = numbers(read_json(second / "train.json"))  # what MLflow has
    assert (told["batch_size"], told["small_batches/finetune/used"]) == (18.0, 18.0)

    run = Evaluate(
        start="b" * 12,
        task="retrieval",
        model=MODEL,
        inputs=tuned.inputs,
        test=tuned.val,
        missing_audio="filter",
    )
    evaluate(run, manifests, second / "model.safetensors", {}, None, tmp_path, "c" * 12)
    assert read_json(tmp_path / "metrics.json")["small_batches"] == both


def test_a_batch_as_large_as_asked_for_leaves_no_mark(manifests, tmp_path, capfd):
    out = go(finetune(missing_audio="none"), manifests, tmp_path)
    said = capfd.readouterr().err
    assert "18 samples an epoch: 4 steps of 4, 2 left out of each epoch" in said
    assert "warning" not in said
    assert "small_batches" not in read_json(out / "train.json")
    assert "small_batches" not in read_metadata(out / "model.safetensors")


def test_a_probe_has_a_warning_without_contrasts(manifests, tmp_path, capfd):
    probe = finetune("classification", optimiser=LARGE, missing_audio="none")
    summary = read_json(go(probe, manifests, tmp_path) / "train.json")
    said = capfd.readouterr().err
    assert "batch_size is 64, but there are only 9 samples" in said and "contrasted" not in said
    assert summary["small_batches"] == {"finetune": {"asked": 64, "used": len(SPLITS["train"])}}


def test_the_second_stage_has_a_label_of_its_own(manifests, tmp_path):
    first = go(pretrain(optimiser=LARGE), manifests, tmp_path / "first")
    on = pretrain(optimiser=LARGE, trainable="all", start="a" * 12)
    second = go(on, manifests, tmp_path / "second", first / "model.safetensors")
    assert list(read_json(second / "train.json")["small_batches"]) == ["pretrain", "second_stage"]


def test_a_microbatch_above_the_batch_is_the_batch():
    """It bounds memory and does not change the contrast, so there is no warning."""
    batches = FeatureBatches(
        clip_ids=["a", "b", "c"],
        batch_of=lambda index: {"index": index, "target": index},
        seed=0,
        batch_size=2,
        microbatch=64,
    )
    assert (batches.size, batches.chunk) == (2, 2)
