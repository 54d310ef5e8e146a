"""What a stage refuses before it starts."""

from pathlib import Path

import pytest

from clip4vla.config import layout
from clip4vla.config.plan import make_plan
from clip4vla.errors import UserError
from clip4vla.stages import runs

REPO = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The demo's classification row, started from a file of weights instead of pre-training."""
    monkeypatch.chdir(tmp_path)
    values = {
        "targets": ["demo_classification"],
        "weights": {"mine": {"path": "mine.safetensors", "sha256": "0" * 64}},
        "recipe": {"pretrain": {"from": "mine"}},
    }
    return make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], values)


def refuse(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_with_another_hash_are_refused(plan, tmp_path):
    key = plan.stage("finetune")[0]
    assert plan.runs[key].start == "weights:mine"
    assert plan.stage("pretrain") == []
    for version, cache_id in plan.caches:
        path = tmp_path / layout.manifest(version, cache_id)
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert "weights mine are missing" in refuse(runs.train, plan, key, 1, None)
    (tmp_path / "mine.safetensors").write_bytes(b"other")
    text = refuse(runs.train, plan, key, 1, None)
    assert "but weights.mine.sha256 says 000" in text


def test_a_run_of_another_stage_is_refused(plan):
    key = plan.stage("evaluate")[0]
    assert "is of stage evaluate: use `clip4vla evaluate" in refuse(runs.train, plan, key, 1, None)
    assert "is of stage" in refuse(runs.evaluate, plan, plan.stage("finetune")[0], 1)


def test_an_unknown_run_and_data_that_are_not_frozen(plan):
    assert "no run '0123456789ab'" in refuse(runs.train, plan, "0123456789ab", 1, None)
    key = plan.stage("finetune")[0]
    command = "run `snakemake ... data`"
    assert f"is not frozen yet; {command}" in refuse(runs.train, plan, key, 1, None)
