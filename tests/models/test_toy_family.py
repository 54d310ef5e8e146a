"""A family that lives in the tests alone trains, resumes and is evaluated: the seam is whole."""

import json
import os
import signal
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_world import INPUTS, build_world, finetune, optimiser, source
from toy_family import Toy
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import RetryLater
from clip4vla.common.files import read_json, sha256_of_file
from clip4vla.config.families import FAMILIES
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Model
from clip4vla.cost.batches import ClipSize
from clip4vla.cost.models import Models
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.family import family_of
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.train import train


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    family_of.cache_clear()
    yield
    family_of.cache_clear()


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
    return build_world(tmp_path_factory.mktemp("toy") / "world")


def trained(run, manifests, folder, start=None, **options):
    train(run, manifests, start, {}, None, folder / "state", folder / "out", **options)
    return folder / "out" / "model.safetensors"


def scored(task, start, manifests, out):
    run = Evaluate(
        start=None,
        task=task,
        test=source("test"),
        model=Model(family="toy", weights=None),
        inputs=INPUTS,
        missing_audio="none",
    )
    evaluate(run, manifests, start, {}, None, out, "0123456789ab")
    return read_json(out / "metrics.json")


def training(task, **given):
    model = Model(family="toy", weights=None)
    given = {"missing_audio": "none", **given}
    return finetune(
        task, model=model, optimiser=optimiser(epochs=20, lr=0.05, head_lr=0.1), **given
    )


def test_an_unknown_family_is_refused():
    with pytest.raises(ValidationError, match="'toi' is no model family; did you mean toy"):
        Model(family="toi")


@pytest.mark.parametrize("task", ["retrieval", "classification"])
def test_it_trains_resumes_and_is_evaluated(manifests, tmp_path, task):
    run = training(task)
    whole = trained(run, manifests, tmp_path / "whole")
    with pytest.raises(RetryLater, match="stopped at step"):
        trained(run, manifests, tmp_path / "parts", save_seconds=0.0, sink=Terminated(after=4))
    parts = trained(run, manifests, tmp_path / "parts")
    assert sha256_of_file(parts) == sha256_of_file(whole)
    found = scored(task, whole, manifests, tmp_path / "evaluated")
    metrics = found["galleries"]["all"]["metrics"]
    if task == "retrieval":
        assert metrics["t2v_MeanR"] < 2.5  # chance is 3 among 5 clips; the best is 1.4
    else:
        assert metrics["accuracy"] > 50  # chance is 33


def test_its_cost_is_estimated(monkeypatch, tmp_path):
    """By `clip4vla plan`: of a training, its validation and the evaluation, for three seeds."""
    monkeypatch.chdir(tmp_path)
    repository = Path(__file__).parents[2]
    recipe = {"model": {"family": "toy", "weights": None}, "pretrain": None}
    values = json.dumps({"recipe": recipe, "targets": ["table1"]})
    command = ["plan", "table1/vision_only", "-c", str(repository / "config.yaml"), "--set", values]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "GPU time to come: < 0.1 GPU hours" in done.output and "finetune" in done.output
    assert "?" not in done.output
    clip = ClipSize(frames=2, segments=1)
    scoring = Models().scoring(training("retrieval", modalities=["vision"]), clip)
    assert scoring.clip == 2 * 2 * 3 * Toy.dim  # two frames of three colours
    step = Models().step(training("retrieval", modalities=["vision"]), clip, 4)
    assert step == 4 * 2 * scoring.clip + 3 * 4 * 4 * 2 * Toy.dim


def test_one_run_starts_from_another(manifests, tmp_path):
    first = trained(training("retrieval"), manifests, tmp_path / "first")
    second = trained(training("classification"), manifests, tmp_path / "second", start=first)
    assert read_json(second.parent / "train.json")["parent"]["sha256"] == sha256_of_file(first)
