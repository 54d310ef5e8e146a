"""Rows whose clips are found by sound or picture: what they share, and what a table of them needs."""

from pathlib import Path

import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan

DEMO = [Path(__file__).parents[2] / name for name in ("config.yaml", "demo/config.yaml")]
ACROSS = {"query": "audio"}


@pytest.fixture
def plan_of(tmp_path):
    def plan_of(metrics, rows, **table):
        columns = [{"dataset": "demo", "metric": name} for name in metrics]
        values = {"table": "t", "title": "T", "gallery": "with_sound", "columns": columns}
        values |= {"base": {"missing_audio": "filter"}} | table
        values["rows"] = [{"row": f"r{i}", "label": "R", **row} for i, row in enumerate(rows)]
        (tmp_path / "t.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return make_plan(DEMO, {"experiments": str(tmp_path), "targets": ["t"]})

    return plan_of


def test_both_queries_are_evaluations_of_one_training(plan_of):
    rows = [{"set": {"query": query}} for query in ("audio", "vision")]
    plan = plan_of(["a2v_R1", "v2a_MedR"], rows, base={"missing_audio": "filter", "finetune": {}})
    assert len(plan.stage("evaluate")) == 2 and len(plan.stage("finetune")) == 1
    (training,) = plan.stage("finetune")
    text = plan_of(["t2v_R1"], [{}], base={"missing_audio": "filter", "finetune": {}})
    assert text.stage("finetune") == [training] and not {*text.stage("evaluate")} & {*plan.runs}
    assert "query" not in text.runs[text.stage("evaluate")[0]].scientific()
    assert {plan.runs[key].query for key in plan.stage("evaluate")} == {"audio", "vision"}
    assert plan.stage("substitute") == []


@pytest.mark.parametrize(
    ("metric", "given", "message"),
    [
        ("t2v_R1", {}, "task retrieval has no metric 't2v_R1' here"),
        ("reranked/a2v_R1", {}, "task retrieval has no metric 'reranked/a2v_R1' here"),
        ("a2v_R1", {"table": {"gallery": "all"}}, "Fix: set gallery: with_sound in the table"),
        ("a2v_R1", {"set": {"missing_audio": "none"}}, "Fix: set missing_audio: filter"),
        (
            "a2v_R1",
            {"set": {"model.fusion": "tight", "finetune": {}}},
            "fusion: tight scores pairs",
        ),
        ("a2v_R1", {"variant": {"frames": False}}, "Fix: remove `frames`"),
    ],
)
def test_what_a_row_cannot_have_is_refused_in_one_line(plan_of, metric, given, message):
    row = {"set": ACROSS | given.get("set", {})}
    row |= {name: value for name, value in given.items() if name == "variant"}
    with pytest.raises(UserError) as caught:
        plan_of([metric], [row], **given.get("table", {}))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_control_of_the_sound_has_gains_in_the_leading_direction(plan_of):
    rows = [{"set": ACROSS}, {"set": ACROSS, "variant": {"audio": "shuffled"}}]
    plan = plan_of(["a2v_R1", "a2v_rank_helped"], rows)
    assert len(plan.stage("evaluate")) == 1 and len(plan.cells) == 2
