"""Run keys name results: they change with the science and with nothing else."""

import json
from pathlib import Path

import pytest
from pydantic import Field

from clip4vla.config.base import Section
from clip4vla.config.keys import cache_id, dataset_version, run_key
from clip4vla.config.planner import make_plan
from clip4vla.config.run import RUN, Evaluate, Source
from clip4vla.config.sections import Decoding

REPO = Path(__file__).parents[2]
FROZEN = Path(__file__).parent / "run_keys.json"
CONFIGS = {
    "paper": [REPO / "config.yaml"],
    "demo": [REPO / "config.yaml", REPO / "demo" / "config.yaml"],
}


def cells(plan) -> dict[str, str]:
    """By table, row, dataset and seed; a fold's own behind them."""
    return {
        f"{c.table}/{c.row}/{c.dataset}/{c.seed}" + (f"/{c.fold}" if c.fold else ""): c.run_key
        for c in plan.cells
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_run_keys_are_frozen(name):
    """A difference here means: this change retrains these rows. Raise it in the commit message."""
    assert cells(make_plan(CONFIGS[name])) == json.loads(FROZEN.read_text())[name]


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIGS["demo"])


def test_a_key_is_the_hash_of_the_resolved_config(plan):
    for key, run in plan.runs.items():
        again = RUN.validate_python(json.loads(json.dumps(run.scientific())))
        assert run_key(again) == key


def test_rows_that_compute_the_same_share_their_runs(plan):
    assert len(plan.stage("pretrain")) == 2  # one of each family, from which all rows but two start
    shown = [(cell.run_key, cell.variant) for cell in plan.cells]
    # The own sound of one table is the row of another, scored beside its variants.
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
    "values",
    [
        {"datasets": {"demo": {"min_coverage": 0.1}}},
        {"datasets": {"demo": {"source": "local", "media": "elsewhere"}}},
        {"datasets": {"demo": {"url": "http://127.0.0.1:1/{file}"}}},
        {"datasets": {"demo": {"expected": {"test": 1}}}},
    ],
)
def test_paths_do_not_enter_the_key(plan, values):
    assert cells(make_plan(CONFIGS["demo"], values)) == cells(plan)


def test_waveforms_in_a_cache_change_no_pretraining(plan):
    """It reads none; only runs of the row's own clips are others."""
    other = make_plan(CONFIGS["demo"], {"recipe": {"cache": {"waveform": True}}})
    assert other.stage("pretrain") == plan.stage("pretrain")
    assert not set(other.stage("evaluate")) & set(plan.stage("evaluate"))
    assert {cache.waveform for cache in other.caches.values()} == {True, False}


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "paper"},
        {"datasets": {"demo": {"shards": 3}}},
        {"datasets": {"demo": {"fetch_pass": 2}}},
        {"recipe": {"model": {"audio_init": "scratch"}}},
        {"recipe": {"cache": {"frames": {"fps": 2.0}}}},
    ],
)
def test_scientific_values_enter_the_key(values):
    """Of the default family, which has another preset and this key of `model`."""
    targets = ["demo_retrieval", "demo_audio", "demo_captioning", "demo_classification"]
    before = cells(make_plan(CONFIGS["demo"], {"targets": targets}))
    changed = cells(make_plan(CONFIGS["demo"], values | {"targets": targets}))
    assert changed.keys() == before.keys()
    assert not set(changed.values()) & set(before.values())


def test_a_label_does_not_enter_the_key(plan, tmp_path):
    table = (REPO / "demo" / "experiments" / "demo_audio.yaml").read_text()
    (tmp_path / "demo_audio.yaml").write_text(table.replace("no pre-training", "another label"))
    values = {"experiments": str(tmp_path), "targets": ["demo_audio"]}
    changed = make_plan(CONFIGS["demo"], values)
    assert cells(changed).items() <= cells(plan).items()
    assert changed.sheet("demo_audio") != plan.sheet("demo_audio")


def test_a_field_added_later_keeps_old_keys_while_it_is_neutral():
    class Before(Section):
        a: int = 1

    class After(Section):
        a: int = 1
        b: int = Field(0, json_schema_extra={"neutral": 0})

    assert run_key(After()) == run_key(Before())
    assert run_key(After(b=1)) != run_key(Before())


def test_a_retired_field_keeps_old_keys_and_has_one_value():
    class Before(Section):
        a: int = 1
        b: float = 0.5

    class After(Section):
        RETIRED = {"b": 0.5}
        a: int = 1

    assert run_key(After()) == run_key(Before())
    assert After.model_validate(Before().scientific()) == After()
    with pytest.raises(ValueError, match="this option was removed. Fix: remove the key"):
        After.model_validate({"b": 1.5})


def test_a_nested_section_can_be_neutral_too():
    source = Source(dataset="d-v1-000000", cache_id="0" * 8, split="test")
    run = Evaluate(start=None, task="captioning", test=source)
    assert "decoding" not in run.scientific()
    beam = run.model_copy(update={"decoding": Decoding(method="beam")})
    assert beam.scientific()["decoding"]["beams"] == 5
    assert run_key(beam) != run_key(run)


def test_a_fusion_is_trained_separately_and_shares_earlier_runs(plan):
    values = {"targets": ["demo_retrieval"], "recipe": {"model": {"fusion": "tight"}}}
    changed = make_plan(CONFIGS["demo"], values)
    assert not set(cells(changed).values()) & set(plan.runs)
    for stage in ("pretrain", "substitute"):
        assert set(changed.stage(stage)) <= set(plan.stage(stage))
    for stage in ("finetune", "evaluate"):
        assert {changed.runs[key].model.fusion for key in changed.stage(stage)} == {"tight"}


def test_the_released_decoding_is_for_captioning_rows(plan):
    released = make_plan(CONFIGS["demo"], {"preset": "released"})
    found = {
        (run.task, run.decoding.positions) for run in map(released.run, released.stage("evaluate"))
    }
    assert found == {("captioning", "sliding"), ("retrieval", "fixed"), ("classification", "fixed")}


def test_names_of_data_follow_their_settings(plan):
    dataset = plan.config.datasets["demo"]
    assert dataset_version("demo", dataset) != dataset_version("other", dataset)
    cache = next(iter(plan.caches.values()))
    slower = cache.model_copy(update={"frames": cache.frames.model_copy(update={"fps": 0.5})})
    assert cache_id(slower) != cache_id(cache)


def test_parents_and_donors_are_runs_of_the_plan(plan):
    for key in plan.runs:
        assert all(parent in plan.runs for parent in plan.parents(key))
    source = Source(dataset="d-v1-000000", cache_id="0" * 8, split="test")
    zero_shot = Evaluate(start=None, task="retrieval", test=source)
    assert zero_shot.scientific()["start"] is None
