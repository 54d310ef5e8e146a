"""The whole workflow on a few clips: counts, names, contents, no-op, one edited row, kills."""

import json
import os
import random
import re
import signal
import time

import pandas as pd
import psutil
import pytest
from mini import CUT, GONE, REPO, Project

from clip4vla.config import layout
from clip4vla.config.planner import make_plan

pytestmark = pytest.mark.workflow
JOBS = {
    "plan_dataset": 1,
    "fetch_shard": 2,
    "probe_shard": 2,
    "ledger": 1,
    "cache_shard": 2,
    "freeze_dataset": 1,
    "pretrain_run": 1,
    "substitute": 1,
    "finetune": 4,
    "evaluate": 5,
    "build_table": 4,
    "build_page": 1,
    "snakemake_report": 1,
    "sync_mlflow": 1,
    "all": 1,
}


def plan_of(project: Project):
    files = [REPO / "config.yaml", REPO / "demo" / "config.yaml", project.folder / "config.yaml"]
    return make_plan(files)


def job_counts(text: str) -> dict[str, int]:
    """Snakemake's table of jobs."""
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
    counts.pop("total", None)
    return {name: int(count) for name, count in counts.items()}


def test_the_dry_run_counts_every_rule(tmp_path):
    done = Project(tmp_path / "p").run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert job_counts(done.stdout + done.stderr) == JOBS


def test_every_output_is_there_under_its_name(finished):
    wanted = layout.all_outputs(plan_of(finished))
    missing = [name for name in wanted if not (finished.out / name).is_file()]
    assert missing == []


def test_all_asks_for_every_output_of_every_rule(finished):
    """Snakemake misses no intermediate: each is named by `all`, so deleting it rebuilds it."""
    done = finished.run("--summary")
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    files = {line[0] for line in lines[1:]}
    assert files == set(layout.all_outputs(plan_of(finished)))


def test_the_ledger_tells_silent_clips_from_sounding_ones(finished):
    folder = next((finished.out / "data").iterdir())
    coverage = pd.read_csv(folder / "coverage.csv").set_index("split")
    assert coverage.loc["test", ["planned", "with_sound", "silent"]].tolist() == [6, 4, 2]
    assert coverage.loc["train", ["planned", "with_sound", "silent"]].tolist() == [12, 9, 2]
    missing = pd.read_csv(folder / "missing.tsv", sep="\t").set_index("clip_id")
    assert missing.loc[GONE, "fetch"] == "gone"
    assert CUT not in missing.index


def test_silent_test_clips_have_donors_from_train(finished):
    plan = plan_of(finished)
    (key,) = plan.stage("substitute")
    donors = pd.read_csv(finished.out / layout.result_dir(key) / "substitution.tsv", sep="\t")
    splits = pd.read_parquet(next((finished.out / "data").glob("*/splits.parquet")))
    train = set(splits.clip_id[splits.split == "train"])
    ledger = pd.read_parquet(next((finished.out / "data").glob("*/ledger.parquet")))
    silent = set(ledger.clip_id[(ledger.video == "ok") & (ledger.audio != "ok")])
    assert set(donors.clip_id) == silent
    assert set(donors.donor) <= train - silent
    assert donors.cosine.between(-1, 1).all()


def test_every_metric_carries_its_n_and_the_hash_of_its_ids(finished):
    for key in plan_of(finished).stage("evaluate"):
        metrics = json.loads((finished.out / layout.result_dir(key) / "metrics.json").read_text())
        gallery = metrics["galleries"][metrics["gallery"]]
        across = metrics["query"] == "audio"
        assert gallery["n_gallery"] == (4 if across else 6)
        assert gallery.get("same_video") == (0 if across else None)
        assert len(gallery["ids_sha256"]) == 64
        assert metrics["coverage"]["expected"] == 6
        assert metrics["run_key"] == key


def test_every_stage_is_an_mlflow_run(finished):
    plan = plan_of(finished)
    synced = json.loads((finished.out / "mlflow" / "synced.json").read_text())
    assert synced["runs"] == len(layout.records(plan)) == len(plan.runs) + 2


def test_a_second_run_has_nothing_to_do(finished):
    done = finished.run()
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "all_kinds", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["results", "all"]
)
def test_a_deleted_output_is_rebuilt(finished, all_kinds):
    """Every file that `all` asks for, one of each kind; trainings follow the first two kinds."""
    plan = plan_of(finished)
    before = finished.contents()
    wanted = layout.all_outputs(plan)
    done = finished.run("--dry-run", "--quiet", "rules")
    assert "Nothing to be done" in done.stdout + done.stderr
    deleted = ["results/tables/mini_retrieval/table.md", "results/report.zip"]
    if all_kinds:
        run = next(iter(plan.stage("substitute")))
        deleted.append(next(name for name in wanted if name.endswith("missing.tsv")))
        deleted.append(f"{layout.result_dir(run)}/substitution.tsv")
    for name in deleted:
        (finished.out / name).unlink()
    done = finished.run()
    assert done.returncode == 0, done.stderr[-4000:]
    assert [name for name in wanted if not (finished.out / name).is_file()] == []
    assert finished.contents() == before


def test_an_edited_row_reruns_itself_and_its_table(finished):
    """Dry: the jobs that Snakemake would run after one row is edited."""
    table = finished.folder / "tables" / "mini_retrieval.yaml"
    text = table.read_text()
    try:
        table.write_text(
            text.replace("modalities: [vision]", "modalities: [vision], inputs.max_frames: 1")
        )
        edited = finished.run("--dry-run")
        table.write_text(text.replace('label: "vision"', 'label: "pictures"'))
        renamed = finished.run("--dry-run")
    finally:
        table.write_text(text)
    after = {"build_table": 1, "build_page": 1, "snakemake_report": 1, "sync_mlflow": 1, "all": 1}
    assert job_counts(edited.stdout + edited.stderr) == {"finetune": 1, "evaluate": 1, **after}
    assert job_counts(renamed.stdout + renamed.stderr) == after


@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="3"), pytest.param(15, id="15", marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_it_ends_with_the_same_results(finished, tmp_path, kills):
    """kill -9 of the whole tree, of Snakemake alone, and a Ctrl-C; then the same command again."""
    project = Project(tmp_path / "killed")
    moments = random.Random(kills)
    for kill in range(kills):
        process = project.start()
        time.sleep(moments.uniform(6, 24))
        if process.poll() is not None:
            break
        match ("all", "snakemake", "interrupt")[kill % 3]:
            case "all":
                os.killpg(process.pid, signal.SIGKILL)
            case "snakemake":
                for child in psutil.Process(process.pid).children():
                    child.kill()
            case "interrupt":
                os.killpg(process.pid, signal.SIGINT)
        process.wait()
    done = project.run()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert project.contents() == finished.contents()
