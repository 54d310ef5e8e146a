"""metrics.json and predictions.parquet of every task and policy."""

import contextlib
import functools
import shutil

import pandas as pd
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from tiny_world import INPUTS, MODEL, SILENT, SPLITS, VERSION, source

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_file, sha256_of_ids
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Decoding
from clip4vla.config.yaml import undotted
from clip4vla.datasets import Benchmark
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.loading.tokens import END, PAD
from clip4vla.metrics import captions as module
from clip4vla.metrics.captions import (
    CaptionScores,
    caption_scorer,
    score_captions,
)
from clip4vla.metrics.recalls import names, rank_metrics
from clip4vla.metrics.retrieval import QueryRanks
from clip4vla.models.clip4vla import model
from clip4vla.models.clip4vla.caption import VocabularyHead
from clip4vla.models.clip4vla.presets import PRESETS
from clip4vla.models.common.beam_search import Caption
from clip4vla.results.metrics_file import read_metrics

WAYS = {
    "beam of one": {"method": "beam", "beams": 1},
    "released": undotted(PRESETS["released"])["decoding"],
}
SOUNDING = sorted(set(SPLITS["test"]) - SILENT)
MADE_WITH = {  # of the stage, which knows the plan; it passes through
    **{"reader": "demo", "architecture": "tiny", "activation": "quick_gelu", "weights": None},
    **{"weights_sha256": None, "published": None, "imported": False, "trainings": []},
}
TABLE = "clip_id\tdonor\tcosine\trandom_donor\ne3\tt0\t0.5\tt1\n"


@pytest.fixture
def score(manifests, tmp_path):
    def score(task="retrieval", start=None, seen=None, **given):
        table = tmp_path / "substitution.tsv"
        table.write_text(TABLE)
        values = {"start": None, "task": task, "test": source("test"), "missing_audio": "none"}
        run = Evaluate(**(values | {"model": MODEL, "inputs": INPUTS} | given))
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        known = {"run_key": "c0ffee", "expected": 6, "benchmark": Benchmark("TINY", captions=2)}
        evaluate(run, manifests, start, {}, table, out, **known, made_with=MADE_WITH, seen=seen)
        read_metrics(out / "metrics.json")  # every task and policy states what tables need
        return read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")

    return score


def test_metrics_say_what_they_stand_on(score, manifests, trained):
    start = trained("retrieval")
    found, _ = score(start=start)
    galleries = found.pop("galleries")
    assert found == {
        "run_key": "c0ffee",
        "task": "retrieval",
        "modalities": ["vision", "audio"],
        "query": "text",
        "dataset": "tiny",
        "data_version": VERSION,
        "manifest_sha256": sha256_of_file(next(iter(manifests.values()))),
        "split": "test",
        "protocol": "TINY",
        "gallery": "all",
        "missing_audio": "none",
        "reads_test_captions": False,
        "half_weights": None,
        "leaks_dropped": None,
        "leaks_kept": None,
        "small_batches": None,
        "selection": "last",
        "tie_rule": "expected value over a random order of equals",
        "interval_rule": "95% percentile bootstrap over clips, 2000 draws",
        "coverage": {
            "expected": 6,
            "planned": 5,
            "usable": 5,
            "silent": 1,
            "scored": 5,
            "captions_per_clip": 2,
        },
        "checkpoint": {"run_key": None, "sha256": sha256_of_file(start)},
        "made_with": MADE_WITH,
    }
    assert set(galleries) == {"all", "with_sound"}
    for name, ids in {"all": SPLITS["test"], "with_sound": SOUNDING}.items():
        gallery = galleries[name]
        assert (gallery["n_queries"], gallery["n_gallery"]) == (2 * len(ids), len(ids))
        assert gallery["ids_sha256"] == sha256_of_ids(ids)
        assert gallery["protocol"] == ("TINY" if name == "all" else "TINY-sound")
        wanted = {*names("t2v"), *names("v2t")}
        assert set(gallery["metrics"]) == set(gallery["intervals"]) == wanted
        assert set(gallery["extras"]) == {"released", "dual_softmax", "reranked"}


def test_predictions_give_back_the_metrics(score):
    found, predictions = score()
    clips = predictions.drop_duplicates("clip_id")
    ones = pd.Series(1, index=predictions.index)
    to_clip = predictions.rank_best, predictions.rank_worst, ones
    to_text = clips.text_rank_best, clips.text_rank_worst, clips.text_rank_copies
    forward, backward = (QueryRanks(*(x.to_numpy() for x in part)) for part in (to_clip, to_text))
    again = rank_metrics(forward, "t2v") | rank_metrics(backward, "v2t")
    assert found["galleries"]["all"]["metrics"] == again
    assert (predictions["rank"] == forward.expected).all()
    assert (clips.text_rank == backward.expected).all()
    assert len(predictions) == 10
    first = predictions["rank"] == 1
    assert all(row.top5[0] == row.clip_id for row in predictions[first].itertuples())
    assert all(set(row) == set(SPLITS["test"]) for row in predictions.top5)


@pytest.mark.parametrize(
    ("policy", "origin", "clips"),
    [("filter", None, 4), ("substitute", "donor", 5), ("random", "donor", 5), ("zeros", "none", 5)],
)
def test_every_policy_says_whose_sound_a_silent_clip_had(score, policy, origin, clips):
    found, predictions = score(missing_audio=policy)
    assert found["coverage"]["scored"] == clips
    assert set(found["galleries"]) == (
        {"with_sound"} if policy == "filter" else {"all", "with_sound"}
    )
    assert found["gallery"] == ("with_sound" if policy == "filter" else "all")
    assert found["protocol"] == ("TINY-sound" if policy == "filter" else "TINY")
    silent = predictions[predictions.clip_id.isin(SILENT)]
    assert set(silent.audio_origin) == ({origin} if origin else set())
    assert set(predictions[~predictions.clip_id.isin(SILENT)].audio_origin) == {"own"}


def test_the_policy_changes_silent_clips_only(score):
    results = {policy: score(missing_audio=policy)[0] for policy in ("none", "substitute", "zeros")}
    with_sound = [found["galleries"]["with_sound"] for found in results.values()]
    assert with_sound[0] == with_sound[1] == with_sound[2]


def test_modalities_name_the_metrics(score):
    audio = score(modalities=["audio"], missing_audio="filter")[0]["galleries"]["with_sound"]
    assert {name[:3] for name in audio["metrics"]} == {"t2a", "a2t"}
    vision = score(modalities=["vision"])[0]["galleries"]["all"]
    assert {name[:3] for name in vision["metrics"]} == {"t2v", "v2t"}


def test_captions_are_stored_with_their_references(score, trained, monkeypatch):
    quick = functools.partial(score_captions, with_meteor=False)  # METEOR has its own test
    scorer = functools.partial(caption_scorer, with_meteor=False)
    with monkeypatch.context() as patch:
        patch.setattr(module, "caption_scorer", scorer)
        found, predictions = score("captioning", trained("captioning"))
    assert predictions.clip_id.tolist() == SPLITS["test"]
    assert list(predictions.references[0]) == ["a red thing", "the sound of red"]
    assert predictions.hypothesis.str.len().gt(0).any()
    assert predictions.audio_origin.tolist() == ["own", "own", "own", "none", "own"]
    again = quick(
        dict(zip(predictions.clip_id, predictions.hypothesis, strict=True)),
        dict(zip(predictions.clip_id, map(list, predictions.references), strict=True)),
        {"all": SPLITS["test"], "with_sound": SOUNDING},
    )
    for name, gallery in found["galleries"].items():
        both = gallery["metrics"]
        assert {key: both[key] for key in again[name]} == pytest.approx(again[name])
        assert {f"{key}_whitespace" for key in again[name]} == both.keys() - again[name].keys()
        assert set(gallery["intervals"]) == again[name].keys() - {"METEOR"}
        for metric, (low, high) in gallery["intervals"].items():
            assert low - 1e-9 <= both[metric] <= high + 1e-9  # equal draws, summed in another order
        assert gallery["n_queries"] == gallery["n_gallery"]
    assert predictions.CIDEr.mean() == pytest.approx(again["all"]["CIDEr"])


@pytest.mark.parametrize(("policy", "kept"), [("none", 2), ("filter", 1)])
def test_scored_clips_that_pretraining_has_seen_are_counted(score, policy, kept):
    """e3 is silent: it is not scored under `filter`. Clips of other splits do not count."""
    found, _ = score(missing_audio=policy, seen=frozenset({"e0", "e3", "t1"}))
    assert found["leaks_kept"] == kept
    assert score(missing_audio=policy, seen=frozenset())[0]["leaks_kept"] == 0


def test_accuracy_counts_right_labels(score, trained):
    found, predictions = score("classification", trained("classification"))
    right = 100 * (predictions.label == predictions.predicted).mean()
    assert found["galleries"]["all"]["metrics"] == {"accuracy": pytest.approx(right)}
    low, high = found["galleries"]["all"]["intervals"]["accuracy"]
    assert low <= right <= high and (low, high) == (0.0, 100.0) or low < high
    assert set(predictions.predicted) <= {"red", "green", "blue"}
    assert found["tie_rule"] is None


@pytest.fixture
def caption(score, trained, monkeypatch):
    """Captions of a short run, without their scores, which take seconds."""

    def nothing(hypotheses, groups):
        return CaptionScores(*({name: {} for name in groups} for _ in range(3)))

    unscored = lambda references: contextlib.nullcontext(nothing)  # noqa: E731
    monkeypatch.setattr(module, "caption_scorer", unscored)

    def caption(**given):
        return score("captioning", trained("captioning"), **given)[1]

    return caption


@pytest.mark.parametrize("way", WAYS)
def test_captions_are_decoded_as_the_run_says(caption, way):
    found = caption(decoding=Decoding(**WAYS[way]))
    greedy = caption()
    same = list(found.hypothesis) == list(greedy.hypothesis)
    assert same == (way == "beam of one")


@pytest.mark.parametrize(("extra", "most"), [(False, 7), (True, 8)])
def test_a_caption_is_as_long_as_in_training(caption, monkeypatch, extra, most):
    """At most max_words - 1 tokens; one more as released (facts 8.3). A model that never ends."""
    inputs = INPUTS.model_copy(update={"extra_word": extra})
    head = VocabularyHead.forward

    def endless(self, x):
        return head(self, x).index_fill(-1, torch.tensor([END, PAD]), float("-inf"))

    monkeypatch.setattr(VocabularyHead, "forward", endless)
    lengths = []
    real = model.decode

    def decode(*given, **options):
        found = real(*given, **options)
        lengths.extend(len(one.ids) for one in found)
        return found

    monkeypatch.setattr(model, "decode", decode)
    caption(inputs=inputs, decoding=Decoding(**WAYS["released"]))
    assert set(lengths) == {most}


def test_a_caption_is_text_and_keeps_a_half_word_at_its_end(caption, monkeypatch):
    """The released detokeniser gives `cafÃ©`, drops the half word and spells out the mask."""
    word = {text: token for token, text in SimpleTokenizer().decoder.items()}
    cafe = SimpleTokenizer().encode("a café")
    ids = [*cafe, word["skate"], word["dog</w>"], 49408, word["skate"]]
    found = [Caption(ids=ids, score=0.0)]
    monkeypatch.setattr(
        model, "decode", lambda _, clips, **__: found * len(clips["vision"].features)
    )
    assert set(caption().hypothesis) == {"a café skatedog skate"}


def test_a_start_without_classes_cannot_be_probed(score, trained):
    with pytest.raises(UserError, match="names no classes"):
        score("classification", trained("retrieval"))


def test_substitution_without_a_table_is_refused(manifests, tmp_path):
    run = Evaluate(start=None, task="retrieval", test=source("test"), model=MODEL, inputs=INPUTS)
    with pytest.raises(UserError, match="needs the substitution.tsv"):
        evaluate(run, manifests, None, {}, None, tmp_path, run_key="c0ffee")
    by_frames = tmp_path / "substitution.tsv"
    by_frames.write_text(TABLE)
    run = run.model_copy(update={"missing_audio": "released_links"})
    with pytest.raises(UserError, match="released_links needs the substitution.tsv"):
        evaluate(run, manifests, None, {}, by_frames, tmp_path, run_key="c0ffee")
