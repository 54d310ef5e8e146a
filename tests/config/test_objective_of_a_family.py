"""The objective of a row or run is of the family that its model names, with its defaults."""

import pytest
import yaml
from pydantic import ValidationError
from toy.settings import Objective as ToyObjective

from clip4vla.common.errors import UserError
from clip4vla.config.families import FAMILIES
from clip4vla.config.planner import make_plan
from clip4vla.config.recipe import Recipe
from clip4vla.config.reference import markdown
from clip4vla.config.run import RUN, Finetune, Source
from clip4vla.models.clip4vla.objective import Objective

TOY = {"family": "toy"}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "toy")


def test_it_has_the_class_and_the_defaults_of_the_family():
    assert Recipe(model=TOY, finetune={}).finetune.objective == ToyObjective(scale=20.0)
    assert Recipe(finetune={}).finetune.objective == Objective(symmetric=False)
    symmetric = {"objective": {"symmetric": True}}
    found = Recipe(model=TOY, finetune=symmetric).finetune.objective
    assert found == ToyObjective(scale=20.0, symmetric=True)
    assert Recipe(finetune=symmetric).finetune.objective == Objective()


def test_every_stage_of_pretraining_has_it(monkeypatch):
    pretrain = {"sources": [{"dataset": "d"}]}
    pretrain["second_stage"] = {"objective": {"symmetric": True}}
    monkeypatch.setattr("toy.settings.Model.TASKS", ("pretrain", "retrieval"))
    found = Recipe(model=TOY, pretrain=pretrain).pretrain
    assert found.objective == ToyObjective()
    assert found.second_stage.objective == ToyObjective(symmetric=True)


def test_a_key_of_another_family_is_unknown():
    with pytest.raises(ValidationError, match=r"finetune\.objective\.inter"):
        Recipe(model=TOY, finetune={"objective": {"inter": False}})


def test_a_refused_family_does_not_stay():
    with pytest.raises(ValidationError):
        Recipe(model=TOY | {"dim": "wide"}, finetune={})
    assert type(Recipe(finetune={}).finetune.objective) is Objective


def test_a_run_reads_what_it_wrote():
    source = Source(dataset="d-v1-0", cache_id="c", split="train")
    fixed = {"start": None, "task": "retrieval", "train": source, "val": None, "selection": "last"}
    for run in (
        Finetune(model=TOY, objective={"scale": 5.0}, **fixed),
        Finetune(objective={"scale": 5.0, "multi_positive": True}, **fixed),
    ):
        again = RUN.validate_python(run.scientific())
        assert again == run and type(again.objective) is type(run.objective)
        assert RUN.validate_json(run.model_dump_json()) == run
    assert run.scientific()["objective"]["multi_positive"]


def test_recipes_with_other_objectives_have_other_hashes():
    recipes = [
        Recipe(model=TOY, finetune={"objective": {"symmetric": value}}) for value in (True, False)
    ]
    assert len({*recipes, Recipe(model=TOY, finetune={})}) == 2


def test_an_error_names_the_nearest_key_of_the_family(tmp_path):
    row = {"row": "toy", "label": "Toy", "set": {"model": TOY, "finetune": {}}}
    row["set"]["finetune"]["objective"] = {"symetric": True}
    table = {"table": "table_toy", "title": "Toy", "rows": [row]}
    table["columns"] = [{"dataset": "clips", "metric": "t2v_R1", "label": "R@1"}]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "table_toy.yaml").write_text(yaml.safe_dump(table))
    clips = {"reader": "folder", "annotations": "notes", "media": "media"}
    config = {"targets": ["table_toy"], "experiments": "experiments"}
    config["datasets"] = {"clips": clips}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as caught:
        make_plan([tmp_path / "config.yaml"])
    text = str(caught.value)
    assert "finetune.objective.symetric: unknown key; did you mean symmetric?" in text
    lines = (tmp_path / "experiments" / "table_toy.yaml").read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if "symetric" in line)
    assert f"table_toy.yaml:{number}" in text


def test_the_reference_has_a_table_for_each_family():
    text = markdown()
    for stage, scale in (("pretrain", "10.0"), ("finetune", "20.0")):
        part = text.split(f"## `{stage}.objective` with `family: toy`")[1].split("\n## ")[0]
        assert f"| `{stage}.objective.scale` | float | `{scale}` |" in part
    assert "| `finetune.objective.symmetric` | bool | `false` |" in text.split("## Presets")[0]
