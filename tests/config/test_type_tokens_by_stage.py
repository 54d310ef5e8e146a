"""The audio type token of pre-training and that of the stages after it."""

from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[2]
DEMO = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
SHARES = {"howto100m": 0.0, "audioset": 1.0}
TABLES = ["table1", "table2", "table3", "table4", "table5", "table6"]


@pytest.fixture(scope="module")
def paper():
    return make_plan([REPO / "config.yaml"], {"preset": "paper", "targets": [*TABLES, "figure4"]})


def tokens(plan, table, row):
    """The type tokens behind a row: (those of its pre-training stages, those of all others)."""
    keys = {c.run_key for c in plan.cells if (c.table, c.row) == (table, row)}
    runs = [plan.runs[link] for key in keys for link in plan.chain(key)]
    pretrained = {run.model.type_token for run in runs if run.stage == "pretrain"}
    return pretrained, {run.model.type_token for run in runs if run.stage != "pretrain"}


@pytest.mark.parametrize("table", TABLES)
def test_the_paper_pretrains_with_one_token_by_source_and_carries_both_afterwards(paper, table):
    """Section "Audio type token": one in pre-training, both at fine-tuning and test."""
    chains = {row.row: tokens(paper, table, row.row) for row in paper.tables[table].rows}
    if table == "table5":
        for row in ("scratch", "initial", "inter", "intra"):
            pretrained, after = chains.pop(row)
            assert pretrained <= {"none"} and after == {"none"}
        assert set(chains) == {"type_token"}
    assert all(pretrained <= {"single"} for pretrained, _ in chains.values())
    assert any(pretrained for pretrained, _ in chains.values())
    assert all(after == {"both"} for _, after in chains.values())


def test_each_source_has_its_own_token_under_paper(paper):
    for key in paper.stage("pretrain"):
        run = paper.runs[key]
        if run.model.type_token == "single":
            names = {paper.versions[s.dataset]: s.nonverbal_share for s in run.sources}
            assert names == SHARES


def test_the_sweep_of_figure_4_starts_from_the_pretraining_of_table_5(paper):
    assert tokens(paper, "figure4", "w00") == ({"single"}, {"single"})
    (swept,) = {c.run_key for c in paper.cells if c.table == "figure4" and c.dataset == "msrvtt"}
    row5 = next(c for c in paper.cells if (c.table, c.row) == ("table5", "type_token"))
    assert paper.chain(swept)[-1] == paper.chain(row5.run_key)[-1]


def planned(preset="ours", model=None, **pretrain):
    recipe = {"pretrain": pretrain, "model": model or {}}
    return make_plan(DEMO, {"targets": ["demo_audio"], "preset": preset, "recipe": recipe})


def test_a_token_of_pretraining_changes_its_key_only_if_it_differs():
    assert planned(type_token="single").runs.keys() == planned().runs.keys()
    changed = planned(type_token="single", model={"type_token": "both"})
    assert set(planned().stage("pretrain")) == set(changed.stage("pretrain"))
    assert not set(planned().stage("finetune")) & set(changed.stage("finetune"))


def test_weights_that_replace_pretraining_need_no_token_under_paper():
    found = planned("paper", **{"from": "openai"})
    assert {run.model.type_token for run in found.runs.values()} == {"both"}


@pytest.mark.parametrize(
    ("model", "pretrain", "message"),
    [
        ("single", {"type_token": "both"}, "pretrain.type_token: both trains other tensors than"),
        ("single", {"type_token": "none"}, "make them equal, or single and then both"),
        ("none", {"type_token": "single"}, "model.type_token: none reads"),
        ("background", {"type_token": "single"}, "model.type_token: background reads"),
        ("both", {}, "Fix: set pretrain.type_token: single"),
        (
            "single",
            {"from": "openai", "type_token": "single"},
            "so nothing is trained. Fix: remove it",
        ),
    ],
)
def test_impossible_tokens_are_refused(model, pretrain, message):
    with pytest.raises(UserError, match=message):
        planned(model={"type_token": model}, **pretrain)


def test_both_tokens_are_possible_if_the_sources_do_not_differ():
    source = {"dataset": "demo", "split": "train", "nonverbal_share": 1}
    found = planned(model={"type_token": "both"}, sources=[source])
    assert {found.runs[key].model.type_token for key in found.stage("pretrain")} == {"both"}
