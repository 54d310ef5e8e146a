"""Objectives and freezing in the config: refused combinations, and fields of the run key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from clip4vla.common.errors import UserError
from clip4vla.config.keys import run_key
from clip4vla.config.planner import make_plan
from clip4vla.config.recipe import PretrainRecipe, Recipe
from clip4vla.config.run import Finetune, Pretrain, Source
from clip4vla.config.sections import Freeze, Optimiser
from clip4vla.models.clip4vla.objective import Objective

REPO = Path(__file__).parents[2]
SOURCE = {"dataset": "d", "nonverbal_share": 0.0}


def pretrain(**options):
    return PretrainRecipe(sources=[SOURCE], **options)


def finetune(task="retrieval", **options):
    return Recipe(task=task, finetune=options)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Objective, {"temperature": "learnable", "scale": 50.0}, "scale only has an effect with temperature: fixed"),
        (Objective, {"inter": False, "multi_positive": True}, "set inter: true"),
        (Objective, {"inter": False, "self_similarity": True}, "set inter: true"),
        (Objective, {"inter": False, "second_stage": "released"}, "set inter: true"),
        (finetune, {"freeze": {"prefixes": ["clip.visual"]}}, "no parameter name begins with 'clip.visual'. Fix: begin with text, vision"),
        (finetune, {"freeze": {"prefixes": [""]}}, "no parameter name begins with"),
        (Freeze, {"layer_num": -1}, "greater than or equal to 0"),
        (Optimiser, {"microbatch": 0}, "greater than or equal to 1"),
        (pretrain, {"objective": {"second_stage": "released"}}, "frozen. Fix: set trainable: all"),
        (pretrain, {"objective": {"self_similarity": True}}, "frozen. Fix: set trainable: all"),
        (pretrain, {"freeze": {"layer_num": 6}}, "frozen. Fix: set trainable: all"),
        (finetune, {"objective": {"self_similarity": True}}, "is for pre-training"),
        (finetune, {"objective": {"second_stage": "released"}}, "is for pre-training"),
        (finetune, {"task": "captioning", "objective": {"temperature": "learnable"}}, "has no contrastive loss"),
        (finetune, {"task": "captioning", "objective": {"multi_positive": True}}, "has no contrastive loss"),
        (finetune, {"objective": {"inter": False}}, "objective.inter is for pre-training"),
        (finetune, {"objective": {"intra": False}}, "objective.intra is for pre-training"),
        (finetune, {"task": "tagging", "objective": {"scale": 50.0}}, "objective.scale: task tagging has no contrastive loss"),
        (finetune, {"task": "captioning", "objective": {"symmetric": True}}, "objective.symmetric: task captioning has"),
        (finetune, {"task": "classification", "freeze": {"prefixes": ["audio."]}}, "always frozen"),
    ],
)  # fmt: skip
def test_impossible_combinations_are_refused(make, options, message):
    with pytest.raises(ValidationError) as caught:
        make(**options)
    assert message in str(caught.value)


def test_an_error_names_table_row_and_key():
    values = {"recipe": {"finetune": {"freeze": {"prefixes": ["clip."]}}}}
    with pytest.raises(
        UserError, match=r"freeze\.prefixes.*no parameter name begins with 'clip\.'"
    ):
        make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], values)


@pytest.mark.parametrize("prefix", ["aud", "audio", "audio.", "text.transformer.resblocks.3"])
def test_prefixes_of_parameter_names_are_valid(prefix):
    assert finetune(freeze={"prefixes": [prefix]}).finetune.freeze.prefixes == [prefix]


def test_prefixes_of_every_stage_are_checked():
    stages = {"sources": [SOURCE], "second_stage": {"freeze": {"prefixes": ["clip."]}}}
    with pytest.raises(
        ValidationError, match=r"pretrain\.second_stage\.freeze\.prefixes: no param"
    ):
        Recipe(pretrain=stages)


def test_objectives_enter_the_run_key_and_a_microbatch_does_not():
    source = Source(dataset="d-v1-0", cache_id="c", split="train")

    def pretraining(**options):
        return run_key(Pretrain(sources=[source], **options))

    def finetuning(**options):
        fixed = {"start": None, "task": "retrieval", "train": source, "val": None}
        return run_key(Finetune(**fixed, **options))

    for key in (pretraining, finetuning):
        assert key(optimiser=Optimiser(microbatch=8)) == key()
        assert key(freeze=Freeze()) == key(objective=Objective()) == key()
        changes = [
            {"objective": Objective(temperature="learnable")},
            {"objective": Objective(multi_positive=True)},
            {"objective": Objective(second_stage="released")},
            {"objective": Objective(self_similarity=True)},
            {"freeze": Freeze(layer_num=0)},
            {"freeze": Freeze(prefixes=["audio."])},
        ]
        assert len({key(), *(key(**change) for change in changes)}) == 1 + len(changes)


def test_the_plan_passes_objectives_on():
    values = {
        "targets": ["demo_retrieval"],
        "recipe": {
            "pretrain": {"freeze": {"prefixes": ["audio.conv1"]}, "optimiser": {"microbatch": 2}},
            "finetune": {"freeze": {"layer_num": 1}, "optimiser": {"microbatch": 3}},
        },
    }
    plan = make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], values)
    pretrained = [plan.runs[key] for key in plan.stage("pretrain")]
    tuned = [plan.runs[key] for key in plan.stage("finetune")]
    assert {(run.freeze.layer_num, run.optimiser.microbatch) for run in tuned} == {(1, 3)}
    assert {tuple(run.freeze.prefixes) for run in pretrained} == {("audio.conv1",)}
    assert {run.optimiser.microbatch for run in pretrained} == {2}


def test_a_key_of_an_objective_keeps_the_recipes_other_keys():
    assert not finetune(objective={"scale": 50.0}).finetune.objective.symmetric  # D10
    assert pretrain(objective={"scale": 50.0}).objective.symmetric
    assert finetune(objective={"symmetric": True}).finetune.objective.symmetric
