"""Draws of training and lengths of segments in the config: refused combinations, and run keys."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from clip4vla.config.families import FAMILIES, family_settings
from clip4vla.config.keys import run_key
from clip4vla.config.planner import make_plan
from clip4vla.config.recipe import Recipe
from clip4vla.config.run import Evaluate, Finetune, Source, Substitute
from clip4vla.config.sections import Inputs

REPO = Path(__file__).parents[2]
TOY = {"family": "toy"}
DRAWS = {"train_frames": 1, "train_crop": True}
SOURCES = [{"dataset": "d", "nonverbal_share": 0.0}]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "toy")


def pretrain(**given):
    return {"pretrain": {"sources": SOURCES, **given}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": {"train_frames": 1}}, "inputs.train_frames: no fine-tuning reads the clips"),
        ({"inputs": {"train_crop": True}}, "inputs.train_crop: no fine-tuning reads the clips"),
        ({"inputs": DRAWS, "finetune": {}, "task": "tagging"}, "inputs.train_frames"),
        ({"inputs": {"train_frames": 0}}, "greater than or equal to 1"),
        ({"inputs": {"segment_steps": 1024}}, "inputs.segment_steps must be 224"),
        (pretrain(inputs={"segment_steps": 1024}), "inputs.segment_steps must be 224"),
        (
            pretrain(inputs={"train_frames": 1}, objective={"inter": False}),
            "pretrain.inputs.train_frames: pre-training reads no vision",
        ),
        ({"pretrain": {"sources": [{"dataset": "d"}]}}, "nonverbal_share mixes the type token"),
    ],
)
def test_impossible_combinations_are_refused(given, message):
    with pytest.raises(ValidationError) as caught:
        Recipe(**given)
    assert message in str(caught.value)


def test_possible_ones_are_not():
    assert Recipe(inputs=DRAWS, finetune={}).inputs.train_frames == 1
    tagging = {"task": "tagging", "finetune": {"trainable": "all"}}
    assert Recipe(inputs=DRAWS, **tagging).inputs.train_crop
    assert Recipe(model=TOY, inputs={"segment_steps": 1024}).inputs.segment_steps == 1024
    token = {"model": {"type_token": "none"}, "pretrain": {"sources": [{"dataset": "d"}]}}
    assert Recipe(**token).pretrain.sources[0].nonverbal_share is None


def test_a_family_without_type_tokens_refuses_their_shares(monkeypatch):
    monkeypatch.setattr(family_settings("toy").model, "TASKS", ("pretrain", "retrieval"))
    Recipe(model=TOY, pretrain={"sources": [{"dataset": "d"}]})
    with pytest.raises(ValidationError, match="pretrain.sources: nonverbal_share: a model of fam"):
        Recipe(model=TOY, pretrain={"sources": SOURCES})


def test_they_enter_the_run_key():
    source = Source(dataset="d-v1-0", cache_id="c", split="train")

    def key(**given):
        fixed = {"start": None, "task": "retrieval", "train": source, "val": None}
        return run_key(Finetune(inputs=Inputs(**given), **fixed))

    changes = [{}, {"train_frames": 1}, {"train_crop": True}, {"segment_steps": 100}]
    assert len({key(**change) for change in changes}) == len(changes)
    assert Inputs(**DRAWS).without_draws() == Inputs()


def test_a_plan_gives_draws_to_trainings_alone():
    files = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
    plain = make_plan(files, {"targets": ["demo_retrieval"]})
    draws = {f"recipe.inputs.{key}": value for key, value in DRAWS.items()}
    drawn = make_plan(files, {"targets": ["demo_retrieval"], **draws})
    for run in drawn.runs.values():
        if isinstance(run, Substitute | Evaluate):
            assert run.inputs.train_frames is None and not run.inputs.train_crop
        elif isinstance(run, Finetune):
            assert run.inputs.train_frames == 1 and run.inputs.train_crop
    assert set(drawn.stage("substitute")) == set(plain.stage("substitute"))
    assert not set(drawn.stage("finetune")) & set(plain.stage("finetune"))
