"""Checks of a stage before it starts."""

import os
from pathlib import Path

import pytest

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of
from clip4vla.common.hardware import INLINE
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.launch.request import Request
from clip4vla.stages import run_inputs, runs
from clip4vla.tracking import write_record

REPO = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Make the demo's classification row, initialised from a file of weights."""
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
    assert "weights mine are missing" in refuse(runs.train, plan, key, INLINE)
    (tmp_path / "mine.safetensors").write_bytes(b"other")
    text = refuse(runs.train, plan, key, INLINE)
    assert "but weights.mine.sha256 says 000" in text


def finish(plan, key):
    """Write outputs of a run, and its record."""
    folder = Path(layout.result_dir(key))
    folder.mkdir(parents=True)
    stage = plan.runs[key].stage
    files = [folder / name for name in layout.RUN_FILES[stage] if name != "record.json"]
    for path in files:
        path.write_text(path.name)
    write_record(folder / "record.json", kind=stage, key=key, name=key, artifacts=files)
    return folder


@pytest.mark.parametrize("stage", ["finetune", "evaluate"])
def test_a_finished_run_says_so_and_ends(plan, stage, capsys, monkeypatch):
    """Unless an output has changed, or what it was made from is newer."""
    for name in runs.RANKS:
        monkeypatch.delenv(name, raising=False)
    key = plan.stage(stage)[0]
    folder = finish(plan, key)
    call = runs.train if stage == "finetune" else runs.evaluate
    call(plan, key, INLINE)
    said = f"run {key}: finished, see {folder}. To run it again, delete {folder}/record.json"
    assert said in capsys.readouterr().err
    if stage == "finetune":
        runs.launch(plan, key, "local", Request())
        assert said in capsys.readouterr().err
        for launcher, request, problem in (
            ("lokal", Request(), "--launcher lokal: unknown"),
            ("local", Request(nodes=2), "--nodes 2: this is one machine"),
            ("local", Request(readers=2), "--readers 2: leaves none"),
        ):
            assert problem in refuse(runs.launch, plan, key, launcher, request)
    (folder / "config.json").write_text("other")
    refuse(call, plan, key, INLINE)  # begins, and misses its data
    (folder / "config.json").write_text("config.json")
    call(plan, key, INLINE)
    source = runs.sources_of(plan.runs[key])[0]
    manifest = Path(layout.manifest(source.dataset, source.cache_id))
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    ended = (folder / "record.json").stat().st_mtime
    os.utime(manifest, (ended - 9, ended - 9))
    call(plan, key, INLINE)
    os.utime(manifest, (ended + 9, ended + 9))
    refuse(call, plan, key, INLINE)


def test_outputs_of_other_runs_are_verified_against_their_records(plan, tmp_path, capsys):
    """Replaced weights of a run and replaced donors of a substitution are refused."""
    given = {"start": "0123456789ab", "substitution": "ba9876543210"}
    run = plan.runs[plan.stage("evaluate")[0]].model_copy(update=given)
    for name, key, kind, read in (
        ("model.safetensors", run.start, "finetune", lambda: run_inputs.start_of(plan, run)),
        (
            "substitution.tsv",
            run.substitution,
            "substitute",
            lambda: run_inputs.donors_of(run.substitution),
        ),
    ):
        path = Path(layout.result_dir(key), name)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"as it was made")
        assert read() == path
        assert f"{path}: not verified" in capsys.readouterr().err
        record = path.with_name("record.json")
        write_record(record, kind=kind, key=key, name=name, artifacts=[path])
        assert read() == path and capsys.readouterr().err == ""
        path.write_bytes(b"as it was mode")
        assert f"Fix: delete it and run `snakemake ... {path}`" in refuse(read)
        write_record(record, kind=kind, key="0" * 12, name=name, artifacts=[path])
        assert f"Fix: delete it and run `snakemake ... {record}`" in refuse(read)
        record.write_text("{}")
        assert "record.json: not a record of a stage" in refuse(read)


def test_a_manifest_without_a_record_is_read_with_a_warning(plan, tmp_path, capsys):
    run = plan.runs[plan.stage("evaluate")[0]]
    for version, cache_id in plan.caches:
        path = Path(layout.manifest(version, cache_id))
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    run_inputs.manifests_of(run)
    assert f"{layout.manifest(run.test.dataset, run.test.cache_id)}: not verified" in (
        capsys.readouterr().err
    )
    path = Path(layout.manifest(run.test.dataset, run.test.cache_id))
    key = f"{run.test.dataset}/{run.test.cache_id}"
    write_record(path.with_name("record.json"), kind="data", key=key, name=key, artifacts=[path])
    run_inputs.manifests_of(run)
    assert capsys.readouterr().err == ""
    path.write_text("{ }")
    assert f"Fix: delete it and run `snakemake ... {path}`" in refuse(run_inputs.manifests_of, run)
    path.with_name("frozen.sha256").write_text(sha256_of("{}") + "\n")
    assert "changed since it was frozen" in refuse(run_inputs.manifests_of, run)


def test_a_run_of_another_stage_is_refused(plan):
    key = plan.stage("evaluate")[0]
    assert "its stage is evaluate. Fix: run `clip4vla evaluate" in refuse(
        runs.train, plan, key, 1, None
    )
    key = plan.stage("finetune")[0]
    assert f"its stage is finetune. Fix: run `clip4vla train {key}`" in refuse(
        runs.evaluate, plan, key, 1
    )
    row = plan.names()[key]
    assert f"run {key}: its stage is" in refuse(runs.evaluate, plan, f"finetune:{row}", 1)


def test_an_unknown_run_and_data_that_are_not_frozen(plan):
    assert "no run '0123456789ab'" in refuse(runs.train, plan, "0123456789ab", 1, None)
    key = plan.stage("finetune")[0]
    command = "run `snakemake ... data`"
    assert f"is not frozen yet. Fix: {command}" in refuse(runs.train, plan, key, INLINE)
