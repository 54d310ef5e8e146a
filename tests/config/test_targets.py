"""A target has exactly the part of the plan that it needs."""

import re
from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.part import narrowed
from clip4vla.config.plan import TRAINED
from clip4vla.config.planner import make_plan
from clip4vla.config.targets import check_names, targets

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan():
    return make_plan([REPO / "config.yaml"])


def test_every_listed_target_has_a_part_of_the_plan(plan):
    for name in targets(plan.tables):
        narrowed(plan, name)


def test_a_row_has_its_runs_and_their_ancestors(plan):
    row = narrowed(plan, "results/rows/table5/type_token")
    assert {cell.row for cell in row.cells} == {"type_token"}
    assert len(row.stage("pretrain")) == 1
    assert {run.stage for run in row.runs.values()} == {"pretrain", "finetune", "evaluate"}
    assert narrowed(plan, "table5/type_token").runs == row.runs


def test_a_row_without_pretraining_needs_no_data_of_it(plan):
    row = narrowed(plan, "table5/scratch")
    assert set(row.versions.values()) == {"msrvtt", "vatex"}
    assert not row.listed and not row.stage("pretrain")


def test_a_table_has_all_its_rows(plan):
    table = narrowed(plan, "table3")
    assert list(table.tables) == ["table3"]
    assert {cell.table for cell in table.cells} == {"table3"}


def test_pretraining_and_data_are_separate_targets(plan):
    assert set(narrowed(plan, "pretrain").stage("pretrain")) == set(plan.stage("pretrain"))
    assert not narrowed(plan, "pretrain").cells
    assert narrowed(plan, "data").caches == plan.caches


def test_a_pretraining_run_has_the_name_of_the_first_row_that_needs_it(plan):
    names = narrowed(plan, "pretrain").names()
    assert names == {key: plan.names()[key] for key in plan.stage("pretrain")}
    assert narrowed(plan, plan.stage("pretrain")[0]).names()
    own = narrowed(plan, "table5/type_token").names()
    assert {name.split("/")[0] for name in own.values()} == {"table5"}


def test_a_run_key_is_a_target(plan):
    key = plan.stage("evaluate")[0]
    assert key in narrowed(plan, key).runs


@pytest.mark.parametrize(
    ("asked", "message"),
    [("tabel5", "did you mean table5"), ("table5/scrath", "table5/scratch")],
)
def test_an_unknown_target_is_refused_with_the_nearest(plan, asked, message):
    with pytest.raises(UserError, match=message):
        narrowed(plan, asked)


def test_a_target_without_a_near_one_is_refused_with_the_command_that_lists_them(plan):
    with pytest.raises(UserError) as caught:
        narrowed(plan, "nope")
    expected = "no target 'nope' in this config. Fix: choose one of `clip4vla targets`"
    assert str(caught.value) == expected


RULES = ["evaluate", "finetune", "table5"]


def made(name: str) -> bool:
    """A rule's pattern, as loose as that of rows and runs."""
    return name.startswith(("results/rows/", "results/tables/table5/"))


@pytest.mark.parametrize(
    ("targets", "rules", "message"),
    [
        (["tabel5"], [], "no target 'tabel5' in this config; did you mean table5"),
        (["finetun"], [], "did you mean finetune"),
        (["results/rows/table5/scrath"], [], "did you mean results/rows/table5/scratch"),
        (["results/rows/table3/scratch"], [], "no target 'results/rows/table3/scratch'"),
        (["results/table/table5/table.md"], [], "did you mean results/tables/table5/table.md"),
        (["results/runs/aaaaaaaaaaaa/x.json"], [], "no target 'results/runs/aaaaaaaaaaaa/x.json'"),
        ([], ["evaluat"], "no rule 'evaluat' in the workflow; did you mean evaluate?"),
    ],
)
def test_unknown_targets_and_rules_of_snakemake_are_refused(plan, targets, rules, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_names(plan, targets, rules, known=RULES, is_made=made)


def test_rules_their_outputs_and_existing_files_are_valid_targets(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    asked = ["table5", "./results/rows/table5/scratch", "notes.txt", "results/tables/table5/x"]
    check_names(plan, asked, ["evaluate"], known=RULES, is_made=made)


def test_a_title_has_the_first_row_and_the_key(plan):
    key = plan.key_of("finetune:table5/type_token/msrvtt/s1")
    assert re.fullmatch(rf"table\d/.*, seed 1( and \d+ more rows?)? \({key}\)", plan.titles[key])
    assert set(plan.titles) == set(plan.runs)
    folded = next(c for c in plan.cells if c.fold is not None and c.seed is not None)
    assert f", seed {folded.seed}, fold {folded.fold}" in plan.titles[folded.run_key]


def test_a_run_is_found_by_its_row(plan):
    cells = [cell for cell in plan.cells if (cell.table, cell.row) == ("table5", "scratch")]
    first = next(cell for cell in cells if cell.dataset == "msrvtt")
    name = f"table5/scratch/msrvtt/s{first.seed}"
    assert plan.key_of(name) == plan.key_of(f"results/rows/{name}") == first.run_key
    assert plan.key_of(first.run_key) == first.run_key
    training = plan.key_of(f"finetune:{name}")
    assert plan.runs[training].stage == "finetune"
    assert plan.key_of(name, TRAINED) == training  # nothing is pre-trained for this row


def test_several_runs_of_a_row_are_named_with_their_keys(plan):
    name = "table5/type_token/msrvtt/s1"
    training = plan.key_of(f"finetune:{name}")
    with pytest.raises(UserError, match=r"2 runs fit, such as .*, pretrain:table5/") as caught:
        plan.key_of(name, TRAINED)
    assert f"finetune:{name} ({training}), " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table5/scratch", "runs fit, such as table5/scratch/"),
        ("table5/scrath/msrvtt/s0", "did you mean table5/scratch/"),
        ("pretrain:table5/scratch", "no run 'pretrain:table5/scratch'"),
        ("table5/scr", "no run 'table5/scr'"),
        ("0" * 12, "no run '0{12}' in this config. Fix: choose one of `clip4vla runs ls`$"),
    ],
)
def test_a_name_that_fits_no_run_or_several_is_refused(plan, name, message):
    with pytest.raises(UserError, match=message) as caught:
        plan.key_of(name)
    assert str(caught.value).count("Fix: ") == 1
