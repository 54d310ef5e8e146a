"""A family that lives in the tests alone trains, resumes and is evaluated: the seam is whole."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from ranks_by_hand import ranks_by_hand
from safetensors.torch import save_file
from tiny_world import INPUTS, build_world, finetune, optimiser, source
from toy.family import LETTERS, Toy
from typer.testing import CliRunner

import clip4vla
from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.cli.main import app, main
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.files import read_json, sha256_of_file
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.families import FAMILIES, family_settings
from clip4vla.config.planner import make_plan
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import Evaluate
from clip4vla.cost.models import Models
from clip4vla.cost.units import ClipSize
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.probe_features import probe_features
from clip4vla.loading.collate import collate
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.family import family_of
from clip4vla.tracking.tracker import Tracker
from clip4vla.training.train import train

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "clips"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "toy")


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


def scored(task, start, manifests, out, **given):
    values = {"missing_audio": "none", "inputs": INPUTS} | given
    run = Evaluate(start=None, task=task, test=source("test"), model={"family": "toy"}, **values)
    evaluate(run, manifests, start, {}, None, out, "0123456789ab")
    return read_json(out / "metrics.json")


def training(task, **given):
    model = {"family": "toy"}
    given = {"missing_audio": "none", **given}
    return finetune(
        task, model=model, optimiser=optimiser(epochs=20, lr=0.05, head_lr=0.1), **given
    )


def test_an_unknown_family_is_refused():
    with pytest.raises(ValidationError, match="'toi' is no model family; did you mean toy"):
        Recipe(model={"family": "toi"})


@pytest.mark.parametrize("task", ["retrieval", "classification"])
def test_it_trains_resumes_and_is_evaluated(manifests, tmp_path, task):
    run = training(task)
    whole = trained(run, manifests, tmp_path / "whole")
    with pytest.raises(RetryLater, match="stopped at step"):
        trained(run, manifests, tmp_path / "parts", save_seconds=0.0, tracker=Terminated(after=4))
    parts = trained(run, manifests, tmp_path / "parts")
    assert sha256_of_file(parts) == sha256_of_file(whole)
    found = scored(task, whole, manifests, tmp_path / "evaluated")
    metrics = found["galleries"]["all"]["metrics"]
    if task == "retrieval":
        assert metrics["t2v_MeanR"] < 2.5  # chance is 3 among 5 clips; the best is 1.4
    else:
        assert metrics["accuracy"] > 50  # chance is 33


def test_it_trains_on_drawn_frames_and_windows(manifests, tmp_path):
    """Of a clip with segments of other lengths; resuming draws the same, evaluation nothing."""
    inputs = INPUTS.model_copy(update={"max_segments": 1, "segment_steps": 100})
    drawn = inputs.model_copy(update={"train_frames": 1, "train_crop": True})
    run = training("retrieval", inputs=drawn)
    whole = trained(run, manifests, tmp_path / "whole")
    with pytest.raises(RetryLater, match="stopped at step"):
        trained(run, manifests, tmp_path / "parts", save_seconds=0.0, tracker=Terminated(after=7))
    assert sha256_of_file(trained(run, manifests, tmp_path / "parts")) == sha256_of_file(whole)
    central = trained(training("retrieval", inputs=inputs), manifests, tmp_path / "central")
    assert sha256_of_file(central) != sha256_of_file(whole)
    first, second = (
        scored("retrieval", whole, manifests, tmp_path / name, inputs=given)["galleries"]["all"]
        for name, given in (("one", drawn), ("two", inputs))
    )
    assert first == second


def test_its_sounds_find_pictures(manifests, tmp_path):
    weights = trained(training("retrieval"), manifests, tmp_path / "trained")
    across = {"query": "audio", "missing_audio": "filter"}
    found = scored("retrieval", weights, manifests, tmp_path / "evaluated", **across)
    metrics = found["galleries"]["with_sound"]["metrics"]
    ranks = ranks_by_hand(manifests, read_checkpoint(weights).model)
    for way, places in zip(("a2v", "v2a"), ranks, strict=True):
        assert metrics[f"{way}_MeanR"] == pytest.approx(places.mean())
        assert metrics[f"{way}_R1"] == pytest.approx(100 * (places == 1).mean())


def test_a_family_without_vectors_of_modalities_refuses_clips_as_queries(monkeypatch):
    given = {"model": {"family": "toy"}, "query": "audio", "missing_audio": "filter"}
    assert Recipe(**given).query == "audio"
    monkeypatch.setattr(family_settings("toy").model, "compares_modalities", False)
    with pytest.raises(ValidationError, match="vectors of sounds and of pictures, which this"):
        Recipe(**given)


@pytest.fixture
def joined(monkeypatch):
    """Let the toy join both modalities of a clip to one sequence."""

    def whole(model, encoded):
        if len(encoded) < 2:
            return encoded
        parts = [torch.cat(tensors, dim=1) for tensors in zip(*encoded.values(), strict=True)]
        return {"av": FeatureSequence(parts[0] * 2.0, parts[1])}

    monkeypatch.setattr(Toy, "whole", whole)
    monkeypatch.setattr(Toy, "apart", False)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_a_probe_reads_whole_clips(tmp_path, joined, trainable):
    """One sequence of both modalities, of which no vector is kept on disk."""
    manifests = build_world(tmp_path / "world")
    run = training("classification", trainable=trainable)
    weights = trained(run, manifests, tmp_path)
    found = scored("classification", weights, manifests, tmp_path / "evaluated")
    assert found["galleries"]["all"]["metrics"]["accuracy"] > 50  # chance is 33
    assert not list(tmp_path.rglob("frozen/*"))
    model, cache = read_checkpoint(weights).model, Caches(manifests)[source("test")]
    items = clip_items(split_rows(cache, source("test")))
    both = ["vision", "audio"]
    samples = samples_of(cache, items, source("test"), INPUTS, both, "none")
    found = probe_features(model, samples, both, torch.device("cpu"), 0, keep=True)
    assert list(found.vectors) == list(found.present) == ["av"] and found.present["av"].all()
    encoded = model.encode_clips(collate([samples[0]]), both)
    sums = sum((x.sum(dim=1) for x, _ in encoded.values()), start=torch.zeros(1, 16))
    count = sum(int(mask.sum()) for _, mask in encoded.values())
    assert torch.allclose(found.vectors["av"][0], 2 * sums[0] / count, atol=1e-5)


def test_its_cost_is_estimated(monkeypatch, tmp_path, table):
    """By `clip4vla plan`: of a training, its validation and the evaluation."""
    monkeypatch.chdir(tmp_path)
    table(set={"finetune": {}})
    done = CliRunner().invoke(app, ["plan", "table_toy/toy", "-c", "config.yaml"])
    assert done.exit_code == 0, done.output
    assert "GPU time to come: < 0.1 GPU hours" in done.output and "finetune" in done.output
    assert "?" not in done.output
    clip = ClipSize(frames=2, segments=1)
    scoring = Models().scoring(training("retrieval", modalities=["vision"]), clip)
    assert scoring.clip == 2 * 2 * 3 * 16  # two frames of three colours
    step = Models().step(training("retrieval", modalities=["vision"]), clip, 4)
    assert step == 4 * 2 * scoring.clip + 3 * 4 * 4 * 2 * 16


def test_one_run_starts_from_another(manifests, tmp_path):
    first = trained(training("retrieval"), manifests, tmp_path / "first")
    second = trained(training("classification"), manifests, tmp_path / "second", start=first)
    assert read_json(second.parent / "train.json")["parent"]["sha256"] == sha256_of_file(first)


def test_its_checkpoint_embeds_texts_sounds_and_videos(manifests, tmp_path):
    path = trained(training("retrieval"), manifests, tmp_path)
    found = clip4vla.load(path, "cpu")
    clips = [DEMO / "say_dog.mp4", DEMO / "bbb_120.mp4"]  # the second one is silent
    texts = found.embed_text(["a dog", "a frog"])
    videos, sounds = found.embed_video(clips), found.embed_audio(clips)
    assert texts.shape == videos.shape == sounds.shape == (2, found.dim) == (2, 16)
    assert np.linalg.norm([*texts, *videos, sounds[0]], axis=1) == pytest.approx(1, abs=1e-5)
    assert not sounds[1].any()
    alone = found.embed_video(clips[1:])
    assert videos[1] == pytest.approx(alone[0], abs=1e-6)
    both = found.similarity(texts, videos, sounds)
    assert both[:, 1] == pytest.approx(texts @ videos[1], abs=1e-5)


def test_texts_that_compare_with_no_single_vector_of_a_clip(manifests, tmp_path, monkeypatch):
    path = trained(training("retrieval"), manifests, tmp_path)
    monkeypatch.setattr(family_settings("toy").model, "embeds_texts", False)
    found = clip4vla.load(path, "cpu")
    (sound,) = found.embed_audio([DEMO / "say_dog.mp4"])
    with pytest.raises(UserError, match="no vectors of texts .* Fix: use embed_clips and rank"):
        found.similarity(sound[None], sound[None])
    clips = found.embed_clips([DEMO / "say_dog.mp4", DEMO / "bbb_120.mp4"])
    text = found.embed_text(["a dog"])
    silent = text @ clips["vision"][1]
    assert found.rank(text, clips)[:, 1] == pytest.approx(silent, abs=1e-5)


def test_its_foreign_files_are_imported(tmp_path):
    tensors = {"words": torch.ones(LETTERS, 4), "pixels": torch.ones(4, 3)}
    tensors["bands"] = torch.full((4, IMAGE_SIZE), 2.0)
    save_file(tensors, tmp_path / "theirs.safetensors")
    out = tmp_path / "ours.safetensors"
    main_ends_well("checkpoint", "import", tmp_path / "theirs.safetensors", out)
    found = read_checkpoint(out)
    assert found.settings.model.family == "toy" and found.settings.model.dim == 4
    assert found.model.audio.weight.equal(tensors["bands"])
    main_ends_well("checkpoint", "export", out, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out" / "model.safetensors").model.dim == 4
    with pytest.raises(UserError, match="the toy was never released"):
        family_of("toy").released_names({})
    with pytest.raises(SystemExit) as ended:
        main(["checkpoint", "export", str(out), str(tmp_path / "theirs"), "--names", "released"])
    assert ended.value.code == 78 and not (tmp_path / "theirs").exists()


def main_ends_well(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == 0


@pytest.fixture
def table(tmp_path):
    """A table of one row on the demo's clips, in a folder of its own."""

    def write(**row):
        text = yaml.safe_dump(
            {
                "table": "table_toy",
                "title": "Toy",
                "columns": [{"dataset": "demo", "metric": "t2v_R1"}],
                "base": {"model": {"family": "toy"}, "missing_audio": "none"},
                "rows": [{"row": "toy", "label": "toy", **row}],
            }
        )
        (tmp_path / "table_toy.yaml").write_text(text)
        demo = yaml.safe_load((ROOT / "demo" / "config.yaml").read_text())["datasets"]
        values = {"experiments": ".", "targets": ["table_toy"], "datasets": demo}
        values["paper"] = str(ROOT / "experiments" / "paper.tsv")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        return make_plan([tmp_path / "config.yaml"])

    return write


def test_its_section_has_its_own_keys_and_presets(table):
    (run,) = {run.model for run in table().runs.values()}
    assert run.dim == 16
    (run,) = {run.model for run in table(preset="paper").runs.values()}
    assert run.dim == 8
    with pytest.raises(UserError, match=r"model\.dmi: unknown key; did you mean dim"):
        table(set={"model.dmi": 3})
    with pytest.raises(UserError, match=r"model\.fusion: unknown key"):
        table(set={"model.fusion": "tight"})
    with pytest.raises(UserError, match="family: 'toi' is no model family; did you mean toy"):
        table(set={"model.family": "toi"})
    with pytest.raises(
        UserError, match=r"no parameter name begins with 'gate'. Fix: begin with text"
    ):
        table(set={"finetune": {"freeze": {"prefixes": ["gate"]}}})
    with pytest.raises(
        UserError, match="task: captioning: a model of family toy is not trained for"
    ):
        table(set={"task": "captioning", "finetune": {}})
    sources = [{"dataset": "demo", "split": "pretrain", "nonverbal_share": 0}]
    with pytest.raises(UserError, match="pretrain: a model of family toy is not trained for it"):
        table(set={"pretrain": {"sources": sources}})
