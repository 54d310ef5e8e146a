"""Variants: shared features give what features made alone give; whose sound each clip has; gains."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import INPUTS, MODEL, SILENT, SPLITS, source

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_ids
from clip4vla.config.metrics import SCORES
from clip4vla.config.run import Evaluate
from clip4vla.config.variant import Variant
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.audio_controls import controlled, given_sounds
from clip4vla.metrics.gain import confusion, gain_examples, gain_metrics, gain_of
from clip4vla.models.clip4vla.model import CLIP4VLA

TABLE = "clip_id\tdonor\tcosine\trandom_donor\ne3\tt0\t0.5\tt1\n"
BY_CAPTIONS = "clip_id\tdonor\tcosine\trandom_donor\ne3\tt4\t0.9\tt1\n"
SOUNDING = sorted(set(SPLITS["test"]) - SILENT)
EVERY = [
    Variant(audio="shuffled"),
    Variant(audio="silent"),
    Variant(audio="swapped"),
    Variant(frames=False),
    *(
        Variant(missing_audio=policy)
        for policy in ("filter", "none", "random", "released_links", "zeros")
    ),
    Variant(nonverbal_share=0.0),
    Variant(nonverbal_share=0.5),
]


@pytest.fixture
def score(manifests, tmp_path):
    def score(task="retrieval", start=None, **given):
        table = tmp_path / "substitution.tsv"
        table.write_text(TABLE)
        values = {"start": None, "task": task, "test": source("test"), "model": MODEL}
        run = Evaluate(**(values | {"inputs": INPUTS, "missing_audio": "substitute"} | given))
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        links = tmp_path / "links.tsv"
        links.write_text(BY_CAPTIONS)
        known = {"run_key": "c0ffee", "expected": 5, "text_substitution": links}
        evaluate(run, manifests, start, {}, table, out, **known)
        return read_json(out / "metrics.json"), pd.read_parquet(out / "predictions.parquet")

    return score


@pytest.fixture
def both(score, trained, monkeypatch):
    """An evaluation with all variants, and how often each tower was called in it."""
    start, calls = trained("retrieval"), {"text": 0, "vision": 0, "audio": 0}
    for name in calls:
        real = getattr(CLIP4VLA, f"encode_{name}")

        def counted(*given, _real=real, _name=name):
            calls[_name] += 1
            return _real(*given)

        monkeypatch.setattr(CLIP4VLA, f"encode_{name}", counted)
    return *score(start=start, variants=EVERY), calls


def test_features_are_made_once_and_every_variant_says_what_it_stands_on(both):
    found, predictions, calls = both
    assert found["missing_audio"] == "substitute" and set(found["galleries"]) == {
        "all",
        "with_sound",
    }
    assert set(found["variants"]) == {variant.name for variant in EVERY}
    for name, variant in found["variants"].items():
        alone = name == "missing_audio=filter"
        assert set(variant["galleries"]) == ({"with_sound"} if alone else {"all", "with_sound"})
        for gallery, ids in {"all": SPLITS["test"], "with_sound": SOUNDING}.items():
            if gallery in variant["galleries"]:
                part = variant["galleries"][gallery]
                assert (part["n_queries"], part["n_gallery"]) == (2 * len(ids), len(ids))
                assert part["ids_sha256"] == sha256_of_ids(ids)
        assert variant["scored"] == (4 if alone else 5)
        assert variant["reads_test_captions"] == (name == "missing_audio=released_links")
    # Captions of all clips, and once more of those with sound alone; frames once; sounds of the
    # five clips, then the other donors', then all again for each other token.
    assert calls == {"text": 2, "vision": 1, "audio": 4}


def test_a_variant_equals_an_evaluation_of_its_own(both, score, trained):
    found = both[0]["variants"]
    for name, given in {
        "missing_audio=zeros": {"missing_audio": "zeros"},
        "missing_audio=none": {"missing_audio": "none"},
        "missing_audio=random": {"missing_audio": "random"},
        "missing_audio=released_links": {"missing_audio": "released_links"},
        "missing_audio=filter": {"missing_audio": "filter"},
        "audio=silent": {"modalities": ["vision"], "missing_audio": "none"},
        "nonverbal_share=0": {"test": source("test", 0.0)},
        "nonverbal_share=0.5": {},
    }.items():
        alone, _ = score(start=trained("retrieval"), **given)
        for gallery, part in alone["galleries"].items():
            metrics = found[name]["galleries"][gallery]["metrics"]
            assert {k: metrics[k] for k in part["metrics"]} == pytest.approx(part["metrics"]), name
    sound, _ = score(start=trained("retrieval"), modalities=["audio"])
    metrics = found["frames=false"]["galleries"]["all"]["metrics"]
    assert metrics["t2v_MeanR"] == sound["galleries"]["all"]["metrics"]["t2a_MeanR"]


def test_predictions_hold_every_query_under_every_variant(both):
    found, predictions, _ = both
    assert len(predictions) == 10 and predictions["query"].tolist() == list(range(10))
    silent = predictions["rank/all/audio=silent"]
    gain = silent - predictions["rank"]
    metrics = found["variants"]["audio=silent"]["galleries"]["all"]["metrics"]
    assert metrics["t2v_rank_gain"] == pytest.approx(gain.mean())
    assert metrics["t2v_rank_helped"] == pytest.approx(100 * (gain > 0).mean())
    assert metrics["t2v_rank_hurt"] == pytest.approx(100 * (gain < 0).mean())
    assert metrics["t2v_MeanR"] == pytest.approx(silent.mean())
    own = found["galleries"]["all"]["metrics"]
    assert (own["t2v_rank_gain"], own["t2v_rank_helped"], own["t2v_rank_hurt"]) == (0, 0, 0)
    # A silent clip is in one gallery only, and galleries are never mixed in one column.
    quiet = predictions.clip_id.isin(SILENT)
    assert predictions.loc[quiet, "rank/with_sound/missing_audio=filter"].isna().all()
    assert predictions.loc[~quiet, "rank/with_sound/missing_audio=filter"].notna().all()
    assert "rank/all/missing_audio=filter" not in predictions
    assert predictions.loc[quiet, "audio_origin"].eq("donor").all()
    assert predictions.loc[quiet, "sound_of"].eq("t0").all()
    assert predictions.loc[quiet, "sound_of/missing_audio=random"].eq("t1").all()
    assert predictions.loc[quiet, "sound_of/missing_audio=released_links"].eq("t4").all()
    assert predictions["sound_of/audio=silent"].isna().all()
    shuffled = predictions.loc[~quiet, "sound_of/audio=shuffled"]
    assert set(shuffled) == set(SOUNDING) and (shuffled != predictions.clip_id[~quiet]).all()
    assert predictions.loc[quiet, "sound_of/audio=shuffled"].eq("t0").all()  # the policy's business


def test_captions_and_classes_have_variants_too(score, trained, monkeypatch):
    import functools

    from clip4vla.metrics import captions as module

    quick = functools.partial(module.caption_scorer, with_meteor=False)
    monkeypatch.setattr(module, "caption_scorer", quick)
    variants = [Variant(audio="silent"), Variant(missing_audio="filter")]
    found, predictions = score("captioning", trained("captioning"), variants=variants)
    metrics = found["variants"]["audio=silent"]["galleries"]["all"]["metrics"]
    gain = predictions.CIDEr - predictions["CIDEr/all/audio=silent"]
    assert metrics["CIDEr_gain"] == pytest.approx(gain.mean())
    assert predictions["hypothesis/audio=silent"].notna().all()
    assert found["variants"]["missing_audio=filter"]["scored"] == 4
    alone, _ = score("captioning", trained("captioning"), missing_audio="filter")
    one, other = (x["galleries"]["with_sound"]["metrics"] for x in (
        alone, found["variants"]["missing_audio=filter"]))  # fmt: skip
    assert {name: other[name] for name in one} == pytest.approx(one)

    found, predictions = score("classification", trained("classification"), variants=variants)
    right = predictions["predicted/audio=silent"] == predictions.label
    metrics = found["variants"]["audio=silent"]["galleries"]["all"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(100 * right.mean())
    assert metrics["right_gain"] == pytest.approx(
        (predictions.predicted == predictions.label).mean() - right.mean()
    )


def rows_of(ids, labels=None, captions=None):
    labels = [(label,) if label else () for label in labels or [""] * len(ids)]
    captions = captions or [["a thing"]] * len(ids)
    return pd.DataFrame({"clip_id": ids, "labels": labels, "captions": captions})


def clips_of(ids, sounds=None):
    return pd.DataFrame({"clip_id": ids, "sound": sounds or ["unknown"] * len(ids)})


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffling_gives_each_clip_the_sound_of_another_one(count):
    ids = [f"c{i}" for i in range(count)]
    sounds = given_sounds([*ids, "quiet", "mute"], {"quiet", "mute"}, {"quiet": "donor"})
    rows, clips = rows_of(ids), clips_of(ids)
    found = controlled(sounds, "shuffled", rows, clips)
    assert sorted(found[clip] for clip in ids) == sorted(ids)
    assert all(found[clip] != clip for clip in ids)
    assert (found["quiet"], found["mute"]) == ("donor", None)
    backwards = dict(reversed(sounds.items()))
    assert controlled(backwards, "shuffled", rows[::-1], clips) == found
    assert set(controlled(sounds, "silent", rows, clips).values()) == {None}
    assert controlled(sounds, "own", rows, clips) == sounds


def test_swapping_goes_by_label_then_by_kind_of_sound_then_by_captions():
    ids = [f"c{i}" for i in range(12)]
    own = {clip: clip for clip in ids}
    labels = ["dog", "cat", "cow"] * 4
    by_label = controlled(own, "swapped", rows_of(ids, labels), clips_of(ids))
    name = dict(zip(ids, labels, strict=True))
    assert all(name[by_label[clip]] != name[clip] for clip in ids)
    assert len(set(by_label.values())) > 3
    kinds = ["verbal"] * 9 + ["nonverbal"] * 3
    by_sound = controlled(own, "swapped", rows_of(ids), clips_of(ids, kinds))
    assert {by_sound[clip] for clip in ids[:9]} <= set(ids[9:])
    assert {by_sound[clip] for clip in ids[9:]} <= set(ids[:9])
    ids = [f"c{i}" for i in range(40)]
    own = {clip: clip for clip in ids}
    words = [f"a red thing{i % 10} runs" for i in range(40)]  # four clips of each, a tenth
    by_words = controlled(
        own, "swapped", rows_of(ids, captions=[[w] for w in words]), clips_of(ids)
    )
    said = dict(zip(ids, words, strict=True))
    assert all(said[by_words[clip]] != said[clip] for clip in ids)
    partly = [*["dog", "cat"] * 19, "cow", ""]  # one clip has no label: labels tell nothing
    found = controlled(own, "swapped", rows_of(ids, partly, [[w] for w in words]), clips_of(ids))
    assert found == by_words


def test_swapping_takes_a_clip_that_shares_the_fewest_labels():
    ids = [f"c{i}" for i in range(8)]
    own = {clip: clip for clip in ids}
    every = [("speech", "dog"), ("speech", "cat"), ("speech",), ("speech", "dog", "cat")] * 2
    rows = rows_of(ids).assign(labels=pd.Series(every))
    found = controlled(own, "swapped", rows, clips_of(ids))
    sets = {clip: set(labels) for clip, labels in zip(ids, every, strict=True)}
    for clip, other in found.items():
        least = min(len(sets[clip] & sets[one]) for one in ids if one != clip)
        assert other != clip and len(sets[clip] & sets[other]) == least


def test_nothing_to_exchange_is_said():
    for control in ("shuffled", "swapped"):
        with pytest.raises(UserError, match=f"audio: {control} needs two clips with sound"):
            controlled({"a": "a", "b": None}, control, rows_of(["a", "b"]), clips_of(["a", "b"]))


def test_gain_is_of_queries_that_both_have():
    own, other = pd.Series({1: 1.0, 2: 5.0, 3: 2.0}), pd.Series({2: 3.0, 3: 9.0, 4: 1.0})
    gain = gain_of(own, other, SCORES["retrieval"])
    assert gain.to_dict() == {2: -2.0, 3: 7.0}
    assert gain_metrics(gain, "x") == {"x_gain": 2.5, "x_helped": 50.0, "x_hurt": 50.0}
    assert gain_examples(gain) == {"helped": [3], "hurt": [2]}
    both, alone = pd.Series([True, False, False], list("abc")), pd.Series([True] * 3, list("bcd"))
    assert confusion(both, alone) == 100.0 and confusion(both, ~alone) == 0.0
    assert confusion(both, pd.Series([True, True, False], list("abc"))) == pytest.approx(100 / 3)
    assert gain_of(own, other, SCORES["captioning"]).to_dict() == {2: 2.0, 3: -7.0}


@pytest.mark.parametrize("fusion", ["global_to_local", "tight", "local_to_local", "feat2sim"])
def test_shared_features_serve_every_fusion(manifests, fusion):
    from clip4vla.checkpoints.initial_weights import initial_model
    from clip4vla.inference.feature_cache import SharedFeatures
    from clip4vla.inference.gallery import Gallery
    from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows

    config = MODEL.model_copy(update={"fusion": fusion})
    run = Evaluate(start=None, task="retrieval", test=source("test"), model=config, inputs=INPUTS)
    model = initial_model(config, INPUTS, None, {}, "retrieval", seed=1)
    cache, device = Caches(manifests)[run.test], torch.device("cpu")
    items = clip_items(split_rows(cache, run.test))
    samples = samples_of(cache, items, run.test, INPUTS, run.modalities, "none")
    sounds = given_sounds([clip for clip, _, _ in items], cache.silent, {})
    shared = SharedFeatures(model, samples, device, 1)
    made = shared.of(items, sounds, run.modalities, 0.5, zeros=False)
    captions = ["a red thing", "the sound of green"]
    one, other = (
        Gallery(model, given, run, 1.0, device, 1).similarities(captions)["t_va"]
        for given in (samples, made)
    )
    assert np.allclose(one, other, rtol=0, atol=1e-5)
