"""Candidates of a retrieval that are scored again as pairs, with the family of the tests."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from tiny_world import INPUTS, SILENT, SPLITS, source
from toy.family import ToyFamily
from toy.settings import Model

from clip4vla.common.files import read_json
from clip4vla.config.families import FAMILIES
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import Evaluate
from clip4vla.config.variant import Variant
from clip4vla.cost.models import Models
from clip4vla.cost.units import ClipSize
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference import second_scores
from clip4vla.inference.second_scores import SecondScores
from clip4vla.models.common.scorer import PooledScorer, SecondScorer
from clip4vla.results.metrics_file import read_metrics

TOY = {"family": "toy"}


class PairScorer(PooledScorer, SecondScorer):
    """Scores a pair again by the distance of its vectors, and counts the pairs."""

    asked: list[int] = []

    def __init__(self, model, rescores):
        super().__init__(model)
        self.rescores = rescores

    def rescored(self, queries, clips, pairs):
        assert self.rescores
        text, clip = pairs.T
        self.asked.append(len(pairs))
        return -(queries["text"][text] - clips["vision"][clip].flip(1)).abs().sum(dim=1)


def scorer(self, model, config, modalities, rescores=False):
    return PairScorer(model, rescores)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "toy")
    monkeypatch.setattr(Model, "rescores", True)
    monkeypatch.setattr(ToyFamily, "scorer", scorer)
    PairScorer.asked = []


@pytest.fixture
def score(manifests, tmp_path):
    def score(**given):
        values = {"start": None, "task": "retrieval", "test": source("test"), "model": TOY}
        values |= {"missing_audio": "none", "inputs": INPUTS} | given
        evaluate(Evaluate(**values), manifests, None, {}, None, tmp_path, run_key="c0ffee")
        read_metrics(tmp_path / "metrics.json")
        predictions = pd.read_parquet(tmp_path / "predictions.parquet")
        return read_json(tmp_path / "metrics.json"), predictions

    return score


def second_order(predictions):
    return predictions.set_index("query")["rank"]


def test_candidates_are_ranked_again_in_each_gallery(score):
    plain, first = score()
    assert "rescored" not in plain
    few, _ = score(rescore=2)
    assert few["rescored"] == 2
    every, second = score(rescore=100)
    assert every["galleries"]["all"]["metrics"] != plain["galleries"]["all"]["metrics"]
    assert (second_order(first) != second_order(second)).any()
    for name, gallery in few["galleries"].items():
        whole = every["galleries"][name]["metrics"]
        assert gallery["metrics"].keys() == whole.keys()
        sounding = name == "with_sound"
        assert gallery["n_gallery"] == len(set(SPLITS["test"]) - (SILENT if sounding else set()))


def test_ranks_are_those_by_hand(score, monkeypatch):
    """Of the two first clips of each text by the first score, by the second one."""
    matrices = {}
    real = SecondScores.among

    def among(self, texts, clips, wanted):
        found = real(self, texts, clips, wanted)
        matrices.setdefault("second", real(self, texts, clips, np.ones_like(wanted)))
        matrices.setdefault("scorer", self)
        return found

    monkeypatch.setattr(SecondScores, "among", among)
    _, predictions = score(rescore=2, missing_audio="filter")
    kept, second = matrices["scorer"], matrices["second"]
    first = kept.scorer.scores(kept.texts, kept.clips, 1.0)["t_va"].numpy()
    ids = [clip for clip in SPLITS["test"] if clip not in SILENT]
    for row, (one, two) in enumerate(zip(first, second, strict=True)):
        best = np.argsort(-one, kind="stable")
        again = best[:2][np.argsort(-two[best[:2]], kind="stable")]
        order = [ids[i] for i in (*again, *best[2:])]
        line = predictions.iloc[row]
        assert line["rank_best"] == 1 + order.index(line.clip_id)
        assert list(line.top5) == order


def test_a_pair_is_scored_once_however_many_galleries_want_it(score, monkeypatch):
    monkeypatch.setattr(second_scores, "PAIRS", 4)
    score(rescore=100)
    clips, texts = len(SPLITS["test"]), 2 * len(SPLITS["test"])
    assert PairScorer.asked == [4] * -(-clips * texts // 4)  # blocks of one size
    PairScorer.asked.clear()
    score()
    assert PairScorer.asked == []


def test_variants_are_scored_again_too(score):
    found, _ = score(rescore=1, variants=[Variant(audio="silent")])
    (silent,) = found["variants"].values()
    assert silent["galleries"]["all"]["metrics"]["t2v_R1"] >= 0
    assert "t2v_rank_gain" in silent["galleries"]["all"]["metrics"]


def test_a_plan_prices_the_pairs(monkeypatch):
    clip, models = ClipSize(frames=2, segments=1), Models()
    given = {"start": None, "task": "retrieval", "test": source("test"), "model": TOY}

    def scoring(rescore):
        return models.scoring(Evaluate(rescore=rescore, inputs=INPUTS, **given), clip)

    def products(scorer, queries, clips, pairs):
        return (queries["text"][pairs[:, 0]] @ clips["vision"][pairs[:, 1]].T).sum(dim=1)

    monkeypatch.setattr(PairScorer, "rescored", products)
    found, plain = scoring(2), scoring(None)
    assert found.again == 2 * 16 * 8  # eight pairs, each with eight clips of width 16
    assert found.total(50, 100) == plain.total(50, 100) + 150 * 2 * found.again
    assert found.total(2, 2) == plain.total(2, 2) + 4 * found.again  # no pair twice


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rescore": 0}, "greater than or equal to 1"),
        ({"rescore": 5}, "this model has no second score"),
        ({"rescore": 5, "model": TOY, "query": "audio", "missing_audio": "filter"}, "by text"),
        ({"rescore": 5, "model": TOY, "task": "classification", "finetune": {}}, "by text"),
    ],
)
def test_impossible_combinations_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Recipe(**given)


def test_a_family_may_score_again():
    assert Recipe(rescore=5, model=TOY).rescore == 5
