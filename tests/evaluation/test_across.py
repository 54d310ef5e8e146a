"""Sounds that find pictures, and pictures that find sounds: numbers, seam, and what is refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from ranks_by_hand import ranks_by_hand
from tiny_world import INPUTS, MODEL, SILENT, SPLITS, source

from clip4vla.cache.clips import ClipCache
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_ids
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Inputs
from clip4vla.config.variant import Variant
from clip4vla.datasets.videos import same_video
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.gallery import Gallery
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows
from clip4vla.models.clip4vla.settings import PAIR_FUSIONS
from clip4vla.pages.examples import write_examples
from clip4vla.results.metrics_file import read_metrics
from clip4vla.runs.listing import headline
from clip4vla.runs.paired import compare_runs

BOTH = ["vision", "audio"]
SOUNDING = [clip for clip in SPLITS["test"] if clip not in SILENT]
VIDEOS = {clip: "one" if clip in ("e0", "e3", "e4") else clip for clip in SPLITS["test"]}


@pytest.fixture
def score(manifests, tmp_path):
    def score(query="audio", start=None, folder="out", **given):
        values = {"start": None, "task": "retrieval", "test": source("test"), "query": query}
        values |= {"missing_audio": "filter", "model": MODEL, "inputs": INPUTS}
        out = tmp_path / folder
        shutil.rmtree(out, ignore_errors=True)
        evaluate(
            Evaluate(**(values | given)),
            manifests,
            start,
            {},
            None,
            out,
            run_key="c0ffee",
            videos=VIDEOS,
        )
        read_metrics(out / "metrics.json")
        return read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")

    return score


def test_both_directions_equal_those_by_hand(score, manifests, trained):
    start = trained("retrieval")
    model = initial_model(MODEL, INPUTS, start, {}, "retrieval")
    sounds, pictures = ranks_by_hand(manifests, model)
    found, predictions = score("audio", start)
    assert predictions.clip_id.tolist() == SOUNDING
    assert predictions["rank"].tolist() == sounds.tolist()
    assert predictions.back_rank.tolist() == pictures.tolist()
    metrics = found["galleries"]["with_sound"]["metrics"]
    for way, ranks in (("a2v", sounds), ("v2a", pictures)):
        assert metrics[f"{way}_R1"] == pytest.approx(100 * np.mean(ranks == 1))
        assert metrics[f"{way}_MeanR"] == pytest.approx(ranks.mean())
        assert metrics[f"{way}_MedR"] == np.median(ranks)
    other, swapped = score("vision", start)
    assert other["galleries"]["with_sound"]["metrics"] == metrics
    assert (swapped["rank"].tolist(), swapped.back_rank.tolist()) == (
        pictures.tolist(),
        sounds.tolist(),
    )
    assert {name.split("_")[0] for name in metrics} == {"a2v", "v2a"}


def test_metrics_say_what_they_stand_on(score):
    found, predictions = score()
    assert (found["query"], found["gallery"]) == ("audio", "with_sound")
    assert found["coverage"]["silent"] == 1 and found["coverage"]["scored"] == len(SOUNDING)
    (gallery,) = found["galleries"].values()
    assert gallery["n_queries"] == gallery["n_gallery"] == len(SOUNDING)
    assert gallery["ids_sha256"] == sha256_of_ids(SOUNDING)
    assert gallery["same_video"] == 2  # e0 and e4; the third clip of their video is silent
    assert set(gallery["extras"]) == {"released", "dual_softmax"}
    assert set(predictions.audio_origin) == {"own"}
    assert not {"caption", "text_rank"} & set(predictions)


def test_clips_of_one_video_are_counted():
    videos = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "y", "f": "x"}
    assert same_video("abd", videos) == 0
    assert same_video("abcdef", videos) == 5


def test_captions_are_not_read(score, monkeypatch):
    def refuse(*_):
        raise AssertionError("a caption was read")

    monkeypatch.setattr("clip4vla.evaluation.evaluate.pair_items", refuse)
    monkeypatch.setattr("clip4vla.models.clip4vla.model.CLIP4VLA.encode_text", refuse)
    score()


def test_equal_clips_score_chance(score, monkeypatch):
    same = np.zeros((4, 4), dtype=np.float32)
    monkeypatch.setattr(Gallery, "across", lambda self, query: {"a_v": same})
    gallery = score()[0]["galleries"]["with_sound"]
    for way in ("a2v", "v2a"):
        assert gallery["metrics"][f"{way}_R1"] == pytest.approx(25)
        assert gallery["bounds"][f"{way}_R1"] == [0.0, 100.0]
        assert gallery["extras"]["released"][f"{way}_R5"] == 100
        assert gallery["extras"]["released"][f"{way}_MedR"] == 2.5
    assert gallery["ties"] == {"a2v": 4, "v2a": 4}


@pytest.mark.parametrize("fusion", ["global_to_global", "global_to_local", "feat2sim"])
def test_a_clip_is_compared_without_a_look_at_its_other_modality(manifests, fusion):
    """Neither a fusion of both nor a gate moves a sound's vector when the pictures change."""
    config = MODEL.model_copy(update={"fusion": fusion})
    run = Evaluate(start=None, task="retrieval", test=source("test"), model=config, inputs=INPUTS)
    model = initial_model(config, INPUTS, None, {}, "retrieval", seed=1)
    cache = Caches(manifests)[run.test]
    items = clip_items(split_rows(cache, run.test))
    samples = samples_of(cache, items, run.test, INPUTS, BOTH, "filter")
    gallery = Gallery(model, samples, run, 1.0, torch.device("cpu"), 0)
    (scores,) = gallery.across("audio").values()
    (turned,) = gallery.across("vision").values()
    assert np.allclose(scores, turned.T, atol=1e-6) and np.abs(scores).max() <= 1 + 1e-6
    fewer = samples_of(cache, items[:2], run.test, INPUTS, BOTH, "filter")
    (some,) = Gallery(model, fewer, run, 1.0, torch.device("cpu"), 0).across("audio").values()
    assert np.allclose(scores[:2, :2], some, atol=1e-5)


def test_variants_of_the_sound_are_scored_beside(score, trained):
    variants = [Variant(audio="shuffled"), Variant(nonverbal_share=0.0)]
    start = trained("retrieval")
    found, predictions = score("audio", start, variants=variants)
    alone, _ = score("audio", start)
    metrics = found["galleries"]["with_sound"]["metrics"]
    for name, value in alone["galleries"]["with_sound"]["metrics"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-3)
    shuffled = found["variants"]["audio=shuffled"]["galleries"]["with_sound"]
    assert "a2v_rank_gain" in shuffled["metrics"]
    assert shuffled["same_video"] == 2
    assert (predictions["sound_of/audio=shuffled"] != predictions.clip_id).all()


def test_runs_of_both_queries_can_be_compared(score, tmp_path, trained):
    for folder, query, start in (("a", "audio", None), ("v", "vision", trained("retrieval"))):
        score(query, start, folder)
    found = compare_runs(tmp_path / "a", tmp_path / "v").differences
    assert {name[:3] for name in found} == {"a2v", "v2a"}
    text = Evaluate(
        start=None, task="retrieval", test=source("test"), missing_audio="filter", model=MODEL
    )
    score("text", None, "t", inputs=text.inputs)
    with pytest.raises(UserError, match="different queries of the same clips"):
        compare_runs(tmp_path / "a", tmp_path / "t")


def test_the_leading_direction_is_the_headline_of_a_run(score, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for query, name in (("audio", "a2v_R1"), ("vision", "v2a_R1")):
        found, _ = score(query, folder="results/runs/c0ffee")
        value = found["galleries"]["with_sound"]["metrics"][name]
        assert headline("c0ffee") == f"{name} {value:.1f} (N {len(SOUNDING)})"


def test_the_page_names_what_was_asked(score, manifests, tmp_path):
    score()
    write_examples(ClipCache(next(iter(manifests.values()))), tmp_path / "out")
    page = (tmp_path / "out" / "examples.html").read_text()
    assert "retrieval of pictures by sound" in page and "the sound of e0" in page
    assert "a2v_R1" in page and "v2a_R1" not in page


@pytest.mark.parametrize(("choice", "position"), [("spread", 0), ("middle", 1)])
def test_one_frame_is_the_first_or_the_middle_one(manifests, choice, position):
    run = Evaluate(start=None, task="retrieval", test=source("test"), model=MODEL)
    cache = Caches(manifests)[run.test]
    inputs = Inputs(max_frames=1, frame_choice=choice)
    items = clip_items(split_rows(cache, run.test))
    samples = samples_of(cache, items, run.test, inputs, BOTH, "filter")
    assert samples[0].jpegs == [cache.read("e0").frames[position]]
    assert inputs.of_frames == {"max_frames": 1} | (
        {} if choice == "spread" else {"frame_choice": choice}
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "classification", "finetune": {}}, "for task: retrieval, not classification"),
        ({"modalities": ["audio"]}, r"Fix: set modalities: \[vision, audio\]"),
        ({"missing_audio": "substitute"}, "Fix: set missing_audio: filter, which leaves silent"),
        ({"query": "sound"}, "query\n.*Input should be 'text', 'audio' or 'vision'"),
        *(
            ({"model.fusion": fusion, "finetune": {}}, f"model.fusion: {fusion} scores pairs")
            for fusion in PAIR_FUSIONS
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    values = {"query": "audio", "missing_audio": "filter"} | given
    if fusion := values.pop("model.fusion", None):
        values["model"] = {"fusion": fusion}
    with pytest.raises(ValidationError, match=message):
        Recipe(**values)


@pytest.mark.parametrize(
    "variant", [{"missing_audio": "zeros"}, {"audio": "silent"}, {"frames": False}]
)
def test_a_variant_leaves_both_modalities(variant):
    (name,) = variant
    with pytest.raises(ValueError, match=f"needs the sound and the picture .* remove `{name}`"):
        Variant(**variant).check(BOTH, "retrieval", "audio")
    Variant(audio="swapped").check(BOTH, "retrieval", "audio")
