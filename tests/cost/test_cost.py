"""Cost estimates of plans: hours by epochs, clips and speed, sizes of data, the printed plan."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.part import narrowed
from clip4vla.config.planner import make_plan
from clip4vla.cost.estimate import _data_cost, clip_counts, data_costs, estimate
from clip4vla.cost.models import Models
from clip4vla.cost.report import as_json, print_plan
from clip4vla.cost.runs import flops, v100_flops

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan():
    """The tables of CLIP4VLA's paper."""
    targets = [f"table{number}" for number in range(1, 7)]
    return make_plan([REPO / "config.yaml"], {"targets": targets})


def row(target, **values):
    """Return the plan of one row of the shipped tables."""
    return narrowed(make_plan([REPO / "config.yaml"], values), target)


def test_the_speed_of_the_authors_gpus_is_that_of_a_v100_in_half_precision():
    assert 1e13 < v100_flops(Models()) < 1.1e13


def test_the_first_stage_costs_about_as_much_as_in_the_paper():
    """Not a goal of the estimate: its only constant is from another training."""
    cost = estimate(row("table5/type_token"))
    (stage1,) = [run for run in cost.runs if run.stage == "pretrain"]
    assert 24 < stage1.hours / 24 < 96  # 48 V100-days


def test_hours_follow_epochs_clips_and_speed():
    plan = row("table5/scratch")
    counts, models = clip_counts(plan), Models()
    run = plan.runs[plan.stage("finetune")[0]]
    base = flops(plan, run, counts, models)
    longer = run.model_copy(
        update={"optimiser": run.optimiser.model_copy(update={"epochs": 2 * run.optimiser.epochs})}
    )
    assert flops(plan, longer, counts, models) == pytest.approx(2 * base)
    more = {split: (2 * clips, 2 * sound) for split, (clips, sound) in counts.items()}
    assert flops(plan, run, more, models) == pytest.approx(2 * base)
    slow, fast = estimate(plan, 1e12), estimate(plan, 4e12)
    assert slow.hours() == pytest.approx(4 * fast.hours())


@pytest.fixture
def manifest(plan, tmp_path, monkeypatch):
    """(dataset version, path of its manifest) of MSR-VTT in an empty folder."""
    monkeypatch.chdir(tmp_path)
    ((version, cache_id),) = [pair for pair in plan.caches if plan.versions[pair[0]] == "msrvtt"]
    path = Path(layout.manifest(version, cache_id))
    path.parent.mkdir(parents=True)
    return version, path


def test_frozen_data_are_counted_from_their_manifest(plan, manifest):
    version, path = manifest
    (before,) = [item for item in data_costs(plan) if item.version == version]
    assert before.clips == 10_000 and not before.frozen
    splits = {"train_ours": {"planned": 9, "usable": 7, "silent": 2}}
    hashes = {"index_sha256": "", "tar_sha256": "", "clips": 1}
    shards = [
        {"shard": i, "tar": f"{i}.tar", "index": f"{i}.parquet", "tar_bytes": 512, **hashes}
        for i in range(4)
    ]
    found = {"splits": splits, "clips": {"planned": 130, "usable": 119, "silent": 3}}
    found |= {"dataset": version, "cache": {}, "not_decodable": {}, "tools": {}}
    path.write_text(json.dumps(found | {"shards": shards, "files": {}}))
    assert clip_counts(plan)[version, "train_ours"] == (7, 5)
    assert clip_counts(plan)[version, "test_1k"] == (1000, 884)
    (item,) = [item for item in data_costs(plan) if item.version == version]
    assert (item.frozen, item.clips, item.cache_bytes) == (True, 119, 2048)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_manifest_is_reported(plan, manifest, text):
    manifest[1].write_text(text)
    with pytest.raises(UserError, match=r"msrvtt-v1-\w+/cache-\w+/manifest.json: corrupt manifest"):
        data_costs(plan)


def test_splits_overlap_and_folds_are_counted_once(plan):
    clips = {plan.versions[item.version]: item.clips for item in data_costs(plan)}
    assert clips["esc50"] == 2_000 and clips["ucf101"] == 13_320  # five folds; three splits
    assert clips["msrvtt"] == 10_000 and clips["vatex"] == 34_991
    assert clips["audiocaps"] == 49_838 + 495 + 975
    (esc50,) = [item for item in data_costs(plan) if "esc50" in item.version]
    assert 1e9 < esc50.cache_bytes < 2e9


def test_splits_within_others_are_counted_once():
    values = {"targets": ["events"], "datasets": {"audioset_2m": {"enabled": True}}}
    events = make_plan([REPO / "config.yaml"], values)
    clips = {events.versions[item.version]: item.clips for item in data_costs(events)}
    assert clips["audioset_20k"] == 22_160 + 20_371
    assert clips["audioset"] == 2_041_789 + 22_160
    assert clips["audioset_2m"] == 2_041_789 + 22_160 + 20_371
    assert clips["vggsound"] == 199_176


def test_a_part_of_a_dataset_is_at_most_its_splits():
    splits = {split: 0 for split in ("train_9k", "caption_train", "caption_val", "caption_test")}
    expected = splits | {"train_ours": 90, "val_ours": 10, "test_1k": 19}
    values = {"targets": ["table5"], "datasets": {"msrvtt": {"expected": expected}}}
    costs = data_costs(make_plan([REPO / "config.yaml"], values))
    assert [item.clips for item in costs if "msrvtt" in item.version] == [119]


def test_downloads_take_at_least_their_pauses():
    values = {"targets": ["table3"], "datasets": {"msrvtt": {"source": "youtube"}}}
    costs = data_costs(make_plan([REPO / "config.yaml"], values))
    (item,) = [item for item in costs if "msrvtt" in item.version]
    assert item.fetched == 10_000
    assert item.fetch_hours == pytest.approx(10_000 * (1.0 + 2.0 * 1.75) / 2 / 3600)


@pytest.mark.parametrize(("command", "code"), [("targets", 0), ("plan table5/scrach", 78)])
def test_what_is_not_priced_needs_no_torch(tmp_path, command, code):
    script = (
        "import sys; from clip4vla.cli.main import main\n"
        "try: main([*sys.argv[2:], '-c', sys.argv[1]])\n"
        f"except SystemExit as end: assert (end.code or 0) == {code}, end.code\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(REPO / "config.yaml"), *command.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_printed_plan_lists_missing_files_and_the_time(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(said(capsys, "table5/scratch"))
    assert "missing: msrvtt: its annotations" in text
    assert "GPU time to come" in text and "An estimate from the operations" in text
    assert "howto100m" not in text


def test_the_plan_as_json_has_rows_hours_and_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = as_json(narrowed(make_plan([REPO / "config.yaml"]), "table5/scratch"), None)
    assert json.loads(json.dumps(told)) == told
    assert {run["name"].rsplit("/", 2)[0] for run in told["runs"]} == {"table5/scratch"}
    assert told["gpu_hours_to_do"] == pytest.approx(sum(run["hours"] for run in told["runs"]))
    assert any("msrvtt: its annotations" in line for line in told["missing"])


def said(capsys, target, config=(), **values):
    """Return the lines that `clip4vla plan TARGET` prints."""
    files = [REPO / "config.yaml", *config]
    print_plan(narrowed(make_plan(files, values), target), None)
    return capsys.readouterr().out.splitlines()


def test_a_small_plan_is_not_held_against_the_papers_days(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = said(capsys, "all", [REPO / "demo" / "config.yaml"])
    assert "GPU time to come: < 0.1 GPU hours" in lines
    lines = said(capsys, "table5")
    assert any(line.endswith("pre-training; the paper's: 48 V100-days)") for line in lines)


def test_a_plan_without_runs_gives_the_reason(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = said(capsys, "data")
    assert "no runs" in lines and not any("0 to do" in line for line in lines)
    disabled = {name: {"enabled": False} for name in ("msrvtt", "vatex")}
    assert said(capsys, "table5/scratch", datasets=disabled) == [
        "table5/scratch/msrvtt: not run (no data: msrvtt disabled)",
        "table5/scratch/vatex: not run (no data: vatex disabled)",
        "no runs",
    ]


@pytest.mark.parametrize("speed", ["inf", "nan", "0"])
def test_a_speed_is_a_number(speed):
    given = ["plan", "--tflops", speed, "-c", str(REPO / "config.yaml")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2 and "--tflops" in done.output


def test_a_dataset_of_which_one_split_is_declared_is_counted_as_usual(monkeypatch):
    plan = make_plan([REPO / "config.yaml"], {"targets": ["table5"]})
    version = next(v for v, name in plan.versions.items() if name == "msrvtt")
    name, dataset = plan.dataset_of(version)
    whole = clips_of(plan, version)
    part = dataset.model_copy(update={"expected": {"test_1k": dataset.expected["test_1k"]}})
    plan.config.datasets[name] = part
    assert clips_of(plan, version) == whole == 10_000


def clips_of(plan, version):
    (cache_id,) = {cache_id for one, cache_id in plan.caches if one == version}
    return _data_cost(plan, version, cache_id).clips
