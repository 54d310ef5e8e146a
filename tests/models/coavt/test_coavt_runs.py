"""Runs of CoAVT through the real loop, from pre-training to evaluation, in a tiny world."""

import os
import signal

import pytest
import torch
from coavt_cases import CACHE, INPUTS, model_section
from safetensors.torch import load_file
from tiny_world import build_world, finetune, optimiser, pretrain, source

from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import read_json, sha256_of_file
from clip4vla.config.run import Evaluate, Substitute
from clip4vla.config.sections import Decoding
from clip4vla.config.variant import Variant
from clip4vla.cost.models import Models
from clip4vla.cost.units import ClipSize
from clip4vla.evaluation import classes
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.donors import substitute
from clip4vla.inference.probe import class_logits
from clip4vla.models.coavt.model import CoAVT
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.train import train

MODEL = model_section(queries=4)
COMMON = {"model": MODEL, "inputs": INPUTS, "cache": CACHE}
DRAWN = INPUTS.model_copy(update={"train_frames": 1, "train_crop": True})


class Terminated(Tracker):
    """Sends SIGTERM to the training after some checkpoints."""

    def __init__(self, after):
        self.left = after

    def saved(self, size):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("coavt") / "world", settings=CACHE)


def trained(run, manifests, folder, start=None, **options):
    train(run, manifests, start, {}, None, folder / "state", folder / "out", **options)
    return folder / "out" / "model.safetensors"


def pretraining(**given):
    values = {"trainable": "all", "optimiser": optimiser(epochs=2, lr=1e-3), **given}
    return pretrain(**(COMMON | {"inputs": DRAWN} | values))


def tuning(task="retrieval", **given):
    values = {"missing_audio": "none", "optimiser": optimiser(epochs=2, lr=1e-3)}
    return finetune(task, **(COMMON | values | given))


def scored(task, start, manifests, out, **given):
    values = {"start": None, "task": task, "test": source("test"), "missing_audio": "none"}
    run = Evaluate(**(COMMON | values | given))
    evaluate(run, manifests, start, {}, None, out, "0123456789ab")
    return read_json(out / "metrics.json")


@pytest.fixture(scope="module")
def pretrained(manifests, tmp_path_factory):
    return trained(pretraining(), manifests, tmp_path_factory.mktemp("pretrained"))


def test_an_interrupted_pretraining_ends_with_the_same_bits(manifests, pretrained, tmp_path):
    run = pretraining(optimiser=optimiser(epochs=2, lr=1e-3, microbatch=3))
    whole = trained(run, manifests, tmp_path / "whole")
    with pytest.raises(RetryLater, match="stopped at step"):
        trained(run, manifests, tmp_path / "parts", save_seconds=0.0, tracker=Terminated(after=3))
    parts = trained(run, manifests, tmp_path / "parts")
    assert sha256_of_file(parts) == sha256_of_file(whole)
    assert sha256_of_file(whole) != sha256_of_file(pretrained)  # another dropout
    assert read_checkpoint(whole).metadata["scale"] == pytest.approx(1 / 0.09, rel=0.1)


def test_retrieval_starts_from_pretraining_and_is_rescored(manifests, pretrained, tmp_path):
    run = tuning(inputs=DRAWN)
    weights = trained(run, manifests, tmp_path, start=pretrained)
    assert read_json(weights.parent / "train.json")["parent"]["sha256"]
    plain = scored("retrieval", weights, manifests, tmp_path / "plain")
    again = scored("retrieval", weights, manifests, tmp_path / "again", rescore=3)
    assert again["rescored"] == 3 and "rescored" not in plain
    assert (
        plain["galleries"]["all"]["metrics"].keys() == again["galleries"]["all"]["metrics"].keys()
    )


def test_sounds_find_pictures_by_mean_tokens(manifests, pretrained, tmp_path):
    across = {"query": "audio", "missing_audio": "filter"}
    found = scored("retrieval", pretrained, manifests, tmp_path, **across)
    assert found["galleries"]["with_sound"]["metrics"].keys() >= {"a2v_R1", "v2a_R1"}


def test_what_stands_in_for_a_missing_modality_is_chosen_at_test(manifests, pretrained, tmp_path):
    other = MODEL.model_copy(update={"missing": "stream"})
    policy = {"missing_audio": "none"}
    average = scored("retrieval", pretrained, manifests, tmp_path / "a", **policy)
    stream = scored("retrieval", pretrained, manifests, tmp_path / "s", model=other, **policy)
    assert average["galleries"].keys() == stream["galleries"].keys()


def test_audio_controls_are_variants(manifests, pretrained, tmp_path):
    variants = [Variant(audio="silent"), Variant(audio="shuffled"), Variant(frames=False)]
    found = scored("retrieval", pretrained, manifests, tmp_path, variants=variants)
    assert set(found["variants"]) == {variant.name for variant in variants}
    alone = scored("retrieval", pretrained, manifests, tmp_path / "v", modalities=["vision"])
    assert alone["galleries"]["all"]["metrics"]["t2v_R10"] == 100


def test_captions_are_trained_and_written(kept_meteor, manifests, pretrained, tmp_path):
    weights = trained(tuning("captioning"), manifests, tmp_path, start=pretrained)
    found = scored("captioning", weights, manifests, tmp_path / "scored")
    assert "CIDEr" in found["galleries"]["all"]["metrics"]
    beam = Decoding(method="beam", beams=2)
    scored("captioning", weights, manifests, tmp_path / "beam", decoding=beam)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_classes_are_learned_with_and_without_the_encoder(
    manifests, pretrained, tmp_path, trainable
):
    run = tuning("classification", trainable=trainable)
    weights = trained(run, manifests, tmp_path, start=pretrained)
    before, after = load_file(pretrained), load_file(weights)
    moved = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert moved == (set() if trainable == "head" else {"audio", "vision", "shared"})
    found = scored("classification", weights, manifests, tmp_path / "scored")
    assert "accuracy" in found["galleries"]["all"]["metrics"]


def test_variants_score_single_frames_and_stand_in_for_pictures(
    manifests, pretrained, tmp_path, monkeypatch
):
    """With variants, features of clips are shared: the scores of the evaluation itself stay."""
    weights = trained(tuning("classification"), manifests, tmp_path, start=pretrained)
    found, sequences = [], set()

    def noted(self, encoded):
        result = whole(self, encoded)
        sequences.update(result)
        return result

    def logits_of(*given):
        found.append(class_logits(*given))
        return found[-1]

    whole = CoAVT.whole
    monkeypatch.setattr(classes, "class_logits", logits_of)
    scored("classification", weights, manifests, tmp_path / "plain", test_frames=2)
    plain = torch.stack(found)
    assert not plain[0].equal(plain[1])
    found.clear()
    monkeypatch.setattr(CoAVT, "whole", noted)
    variants = [Variant(frames=False), Variant(audio="silent")]
    scored("classification", weights, manifests, tmp_path / "a", test_frames=2, variants=variants)
    torch.testing.assert_close(torch.stack(found[:2]), plain)
    assert sequences == {"av"}


def test_classes_are_found_by_their_names(manifests, pretrained, tmp_path):
    given = {"class_names": True}
    found = scored("classification", pretrained, manifests, tmp_path, **given)
    assert 0 <= found["galleries"]["all"]["metrics"]["accuracy"] <= 100


def test_donors_are_found_by_pictures(manifests, pretrained, tmp_path):
    run = Substitute(start=None, queries=[source("test")], donors=source("train"), **COMMON)
    substitute(run, manifests, pretrained, {}, tmp_path)
    lines = (tmp_path / "substitution.tsv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("e3\t")


def test_files_of_other_settings_are_refused(manifests, pretrained, tmp_path):
    other = MODEL.model_copy(update={"image_stats": "clip"})
    with pytest.raises(UserError, match="was trained with model.image_stats: imagenet, but the"):
        trained(tuning(model=other), manifests, tmp_path / "a", start=pretrained)
    other = MODEL.model_copy(update={"queries": 5})
    with pytest.raises(UserError, match=r"query.queries \[4, 64\] for \[5, 64\]"):
        trained(tuning(model=other), manifests, tmp_path / "b", start=pretrained)


@pytest.mark.parametrize("microbatch", [None, 2])
def test_its_cost_is_counted(microbatch):
    """By `clip4vla plan`, for every stage and task."""
    clip, models = ClipSize(frames=1, segments=1, bands=128, channels=1), Models()
    few = {"optimiser": optimiser(microbatch=microbatch)}
    step = models.step(pretraining(**few), clip, 4)
    twice = models.step(pretraining(**few), clip, 8)
    assert 1.8 * step < twice < 2.2 * step
    for run in (tuning(**few), tuning("captioning", **few), tuning("tagging", trainable="all")):
        assert models.step(run, clip, 4) > 0
        assert models.scoring(run, clip).clip > 0
    evaluation = {"start": "weights:x", "task": "retrieval", "test": source("test")}
    plain = models.scoring(Evaluate(**(COMMON | evaluation)), clip)
    again = models.scoring(Evaluate(**(COMMON | evaluation | {"rescore": 2})), clip)
    assert again.again > 0 and plain.again == 0
    across = Evaluate(**(COMMON | evaluation | {"query": "audio"}))
    assert models.scoring(across, clip).pair > 0
