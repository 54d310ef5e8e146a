"""`clip4vla examples`: which runs have a page, and where it is written."""

import json
from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.planner import make_plan
from clip4vla.stages.examples import write_page

REPO = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"targets": ["demo_retrieval"]}
    return make_plan([REPO / "config.yaml", REPO / "demo/config.yaml"], values)


def refused(plan, key, against=None):
    with pytest.raises(UserError) as caught:
        write_page(plan, key, against=against, previews=False, out=None)
    assert not Path("results/preview").exists()
    return str(caught.value)


def test_a_training_has_no_page(plan):
    key = plan.stage("finetune")[0]
    assert f"run {key}: its stage is finetune, which has no page. Fix: " in refused(plan, key)


def test_an_evaluation_that_has_not_ended_says_what_to_run(plan):
    key = plan.stage("evaluate")[0]
    assert f"results/runs/{key}/metrics.json: no such file. Fix: run " in refused(plan, key)


def test_donors_are_not_compared_with_an_evaluation(plan):
    evaluation, donors = plan.stage("evaluate")[0], plan.stage("substitute")[0]
    files = ("metrics.json", "predictions.parquet", "substitute.json", "substitution.tsv")
    for key in (evaluation, donors):
        for name in files:
            path = Path("results/runs", key, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({}))
    assert "not two evaluations" in refused(plan, evaluation, against=donors)


def test_runs_are_named_by_their_rows_too(plan):
    key = plan.stage("evaluate")[0]
    row = plan.names()[key]
    assert f"results/runs/{key}/metrics.json" in refused(plan, row)
    assert "no run '../../etc' in this config" in refused(plan, "../../etc")
