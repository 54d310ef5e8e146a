"""Folds of a probe share the features of their frozen towers, which are computed once."""

import numpy as np
import pytest
import torch
from tiny_world import INPUTS, SILENT, SPLITS, build_world, finetune, optimiser, source

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.features import embed_clips
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows
from clip4vla.models.common.pooling import masked_mean
from clip4vla.training.switches import Switches
from clip4vla.training.train import train

CPU = torch.device("cpu")
BOTH = ["vision", "audio"]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("probe") / "world")


def samples(manifests, split, policy, donors=None):
    cache = Caches(manifests)[source(split)]
    items = clip_items(split_rows(cache, source(split)))
    return samples_of(cache, items, source(split), INPUTS, BOTH, policy, donors)


@pytest.mark.parametrize(
    ("policy", "donors"),
    [("none", {}), ("zeros", {}), ("filter", {}), ("substitute", {"t2": "t0", "t7": "v0"})],
)
def test_features_from_disk_are_those_of_the_towers(manifests, policy, donors):
    run = finetune("classification")
    model = initial_model(run.model, INPUTS, None, {}, "classification", 3)
    given = samples(manifests, "train", policy, donors)
    plain = embed_clips(model, given, BOTH, CPU, 1, reduce=masked_mean)
    kept = probe_features(model, given, BOTH, CPU, 1, keep=True)
    assert kept.clip_ids == plain.clip_ids
    assert list(kept.vectors) == list(plain.vectors) == BOTH
    for name, one in kept.vectors.items():
        assert torch.equal(kept.present[name], plain.present[name])
        assert torch.allclose(one, plain.vectors[name], rtol=0, atol=1e-4)


def test_a_second_fold_reads_no_clip(tmp_path, monkeypatch):
    """Train on one split and select on another, then the other way round, then evaluate both."""
    manifests, reads = build_world(tmp_path / "world"), []
    for name in ("read_frames", "read_log_mel"):
        real = getattr(ClipCache, name)

        def counted(cache, clip_id, *given, _real=real):
            reads.append(clip_id)
            return _real(cache, clip_id, *given)

        monkeypatch.setattr(ClipCache, name, counted)
    shared = {"missing_audio": "none", "optimiser": optimiser(epochs=4)}
    found = []
    for fold, (trains, selects) in enumerate([("train", "val"), ("val", "train")]):
        run = finetune("classification", train=source(trains), val=source(selects), **shared)
        out = tmp_path / str(fold)
        train(run, manifests, None, {}, None, out / "state", out)
        scored = Evaluate(
            start="0" * 12, task="classification", test=source("test"), missing_audio="none",
            model=run.model, inputs=INPUTS,
        )  # fmt: skip
        evaluate(scored, manifests, out / "model.safetensors", {}, None, out, "c0ffee")
        found.append(read_json(out / "metrics.json")["galleries"]["all"]["metrics"]["accuracy"])
        assert read_json(out / "train.json")["selection"] == "best_val"
        if fold == 0:
            assert set(reads) >= set(SPLITS["train"]) - SILENT  # the first computes for all
            reads.clear()
    assert reads == []
    assert np.isfinite(found).all()


def test_towers_that_learned_leave_no_features_on_disk(tmp_path):
    """Another run never has the same towers: their features would be of no use to it."""
    manifests = build_world(tmp_path / "world")
    run = finetune(
        "classification", trainable="all", missing_audio="none", optimiser=optimiser(epochs=3)
    )
    train(run, manifests, None, {}, None, tmp_path / "s", tmp_path)
    scored = Evaluate(
        start="0" * 12, task="classification", test=source("val"), missing_audio="none",
        model=run.model, inputs=INPUTS,
    )  # fmt: skip
    evaluate(scored, manifests, tmp_path / "model.safetensors", {}, None, tmp_path, "c0ffee")
    accuracy = read_json(tmp_path / "metrics.json")["galleries"]["all"]["metrics"]["accuracy"]
    assert accuracy == read_json(tmp_path / "train.json")["val_value"] > 0
    assert not list(tmp_path.rglob("frozen/*"))


def test_without_the_disk_the_results_are_the_same(manifests, tmp_path):
    run = finetune("classification", missing_audio="none", optimiser=optimiser(epochs=3))
    values = []
    for kept in (True, False):
        out = tmp_path / str(kept)
        train(run, manifests, None, {}, None, out / "s", out, switches=Switches(kept))
        values.append(read_json(out / "train.json")["val_value"])
    assert values[0] == values[1]
