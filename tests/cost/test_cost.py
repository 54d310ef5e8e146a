"""Cost estimates against operations counted by torch, sizes and the paper's hours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.config.sections import Model
from clip4vla.config.targets import narrowed
from clip4vla.cost.estimate import _data_cost, clip_counts, estimate
from clip4vla.cost.report import print_plan
from clip4vla.cost.runs import flops, v100_flops
from clip4vla.cost.work import work_of
from clip4vla.models.clip4vla.build import build_model

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan():
    return make_plan([REPO / "config.yaml"])


def test_operations_of_the_towers_are_those_that_torch_counts():
    """Up to the products inside attention, which torch does not count on a CPU: 4 % here."""
    model = build_model(Model(architecture="tiny", weights=None), {})
    work = work_of("tiny")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.vision(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == pytest.approx(work.image, rel=0.05)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.text(torch.zeros(1, 20, dtype=torch.long))
    assert counter.get_total_flops() == pytest.approx(work.text(20), rel=0.05)


def test_the_cost_of_vit_b_32_equals_published_numbers():
    assert work_of("ViT-B-32").image / 1e9 == pytest.approx(8.8, abs=0.1)  # 4.4 GMAC
    assert 1e13 < v100_flops() < 1.1e13


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="ViT-Z"):
        work_of("ViT-Z")


def test_the_first_stage_costs_about_as_much_as_in_the_paper(plan):
    """Not a goal of the estimate: its only constant is from another training."""
    cost = estimate(plan, v100_flops())
    stage1 = next(run for run in cost.runs if "type_token" in run.name or "global_to_g" in run.name)
    assert 24 < stage1.hours / 24 < 96  # 48 V100-days


def test_hours_follow_epochs_clips_and_speed(plan):
    counts = clip_counts(plan)
    run = plan.runs[plan.stage("finetune")[0]]
    base = flops(plan, run, counts)
    longer = run.model_copy(
        update={"optimiser": run.optimiser.model_copy(update={"epochs": 2 * run.optimiser.epochs})}
    )
    assert flops(plan, longer, counts) == pytest.approx(2 * base)
    more = {split: (2 * clips, 2 * sound) for split, (clips, sound) in counts.items()}
    assert flops(plan, run, more) == pytest.approx(2 * base)
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
    (before,) = [item for item in estimate(plan, 1e12).data if item.version == version]
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
    (item,) = [item for item in estimate(plan, 1e12).data if item.version == version]
    assert (item.frozen, item.clips, item.cache_bytes) == (True, 119, 2048)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_manifest_is_reported(plan, manifest, text):
    manifest[1].write_text(text)
    with pytest.raises(UserError, match=r"msrvtt-v1-\w+/cache-\w+/manifest.json: corrupt manifest"):
        estimate(plan, 1e12)


def test_splits_overlap_and_folds_are_counted_once(plan):
    clips = {plan.versions[item.version]: item.clips for item in estimate(plan, 1e12).data}
    assert clips["esc50"] == 2_000 and clips["ucf101"] == 13_320  # five folds; three splits
    assert clips["msrvtt"] == 10_000 and clips["vatex"] == 34_991
    assert clips["audiocaps"] == 49_838 + 495 + 975
    (esc50,) = [item for item in estimate(plan, 1e12).data if "esc50" in item.version]
    assert 1e9 < esc50.cache_bytes < 2e9


def test_a_part_of_a_dataset_is_at_most_its_splits():
    splits = {split: 0 for split in ("train_9k", "caption_train", "caption_val", "caption_test")}
    expected = splits | {"train_ours": 90, "val_ours": 10, "test_1k": 19}
    values = {"targets": ["table5"], "datasets": {"msrvtt": {"expected": expected}}}
    cost = estimate(make_plan([REPO / "config.yaml"], values), 1e12)
    assert [item.clips for item in cost.data if "msrvtt" in item.version] == [119]


def test_downloads_take_at_least_their_pauses():
    values = {"targets": ["table3"], "datasets": {"msrvtt": {"source": "youtube"}}}
    cost = estimate(make_plan([REPO / "config.yaml"], values), 1e12)
    (item,) = [item for item in cost.data if "msrvtt" in item.version]
    assert item.fetched == 10_000
    assert item.fetch_hours == pytest.approx(10_000 * (1.0 + 2.0 * 1.75) / 2 / 3600)


def test_the_printed_plan_needs_no_torch_and_lists_missing_files(tmp_path):
    code = (
        "import sys; from clip4vla.cli.main import main\n"
        "try: main(['plan', 'table5/scratch', '-c', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(REPO / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "missing: msrvtt: its annotations" in done.stdout
    assert "GPU time to come" in done.stdout and "An estimate" in done.stdout
    assert "howto100m" not in done.stdout


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
