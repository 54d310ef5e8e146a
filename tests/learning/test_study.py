"""The study's tables resolve to runs whose seeds are those of pre-training and of fine-tuning."""

import multiprocessing

import pytest
from learning import frozen, study, world
from learning.world import SIZES

from clip4vla.common.files import read_json
from clip4vla.config import layout


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study.plan_of.cache_clear()
    yield
    study.plan_of.cache_clear()


def test_a_seed_is_one_of_pretraining_and_of_fine_tuning():
    plan = study.plan_of(2, study.TABLES)
    assert {plan.runs[key].seed for key in plan.stage("pretrain")} == {2}
    for cell in study.cells_of(plan, 2):
        assert {plan.runs[start].seed for start in plan.parents(cell.run_key)[:1]} <= {2}


def test_rows_of_pretraining_differ_in_what_they_add():
    plan = study.plan_of(0, ("world_pretraining",))
    added = {
        (plan.runs[key].objective.intra, plan.runs[key].model.type_token)
        for key in plan.stage("pretrain")
    }
    assert added == {(False, "none"), (True, "none"), (True, "single")}


def test_spread_is_the_standard_deviation_over_seeds():
    assert study.spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert study.spread([4.25]) == "4.2"
    assert study.of({"t2a_R1": 5.0}, "t2v_R1") == study.of({"t2v_R1": 5.0}, "t2v_R1") == 5.0


def test_each_clip_is_trained_on_a_dataset_of_its_own_as_often():
    plan = study.plan_of(0, ("world_clip",))
    clips = {cell.dataset: plan.runs[plan.parents(cell.run_key)[0]] for cell in plan.cells}
    assert set(clips) == set(study.CLIPS.values())
    samples = {name: run.optimiser.epochs * SIZES[name]["train"] for name, run in clips.items()}
    assert len(set(samples.values())) == 1


def test_rows_of_the_start_differ_in_clip_and_start_alone():
    plan = study.plan_of(1, ("world_initial",))
    runs = [plan.runs[key] for key in plan.stage("finetune") if plan.runs[key].seed == 1]
    assert {(run.model.weights, run.model.audio_init) for run in runs} == {
        (clip, start) for clip in study.CLIPS for start in ("scratch", "vision")
    }


def test_what_the_runs_read_is_frozen(monkeypatch):
    """Before any run, and decoded as the cache's rules do: in a process that may have children."""
    monkeypatch.setattr(frozen, "clips", lambda name, share: world.clips(name, 0.004))
    plan = study.plan_of(1, ("world_coavt",))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        study.run_all(pool, {1: plan}, only=set())
    ((version, cache_id),) = plan.caches
    counts = read_json(layout.manifest(version, cache_id))["clips"]
    assert 0 < counts["usable"] == counts["planned"]
