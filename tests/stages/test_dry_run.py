"""A dry run ends with what would be done and why, by stage and by table."""

from pathlib import Path

import pytest

from clip4vla.config.planner import make_plan
from clip4vla.stages.dry_run import Job, plan_command, print_summary

REPO = Path(__file__).parents[2]
MISSING, AGAIN = "output files have to be generated", "input files updated by another job"


@pytest.fixture(scope="module")
def plan():
    return make_plan([REPO / "demo" / "config.yaml"])


def test_jobs_are_counted_by_stage_and_runs_by_table(plan, capsys):
    tuned = plan.stage("finetune")[0]
    changed = ("params have changed since last execution",)
    jobs = [
        Job("build_table", None, (AGAIN,)),
        Job("finetune", tuned, (AGAIN, MISSING)),
        Job("fetch_shard", None, (MISSING,)),
        Job("fetch_shard", None, changed),
    ]
    order = ["fetch_shard", "evaluate", "finetune", "build_table"]
    print_summary(plan, jobs, order=order, command="clip4vla plan")
    lines = capsys.readouterr().out.splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert "│ fetch_shard │ 2 │ 1 no output yet, 1 other params │" in shown
    assert "│ finetune │ 1 │ no output yet │" in shown
    assert "│ build_table │ 1 │ input is made again │" in shown
    assert not any("evaluate │ 0" in line for line in shown)
    assert [line.split()[1] for line in lines if line.startswith("│ ")][:4] == [
        "fetch_shard",
        "finetune",
        "build_table",
        "total",
    ]
    tables = {cell.table for cell in plan.rows()[tuned]}
    named = {line.split()[1] for line in lines if line.startswith("│ demo_")}
    assert named == tables
    assert lines[-2].endswith("  clip4vla plan")


def test_without_runs_no_table_is_listed(plan, capsys):
    print_summary(plan, [Job("fetch_shard", None, ())], order=["fetch_shard"], command="x")
    text = capsys.readouterr().out
    assert "asked for" in text and "Runs that" not in text


def test_the_command_for_the_cost_can_be_pasted(plan, tmp_path, monkeypatch):
    folder = tmp_path / "with blank"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def told(asked, files=(), values=None):
        return plan_command(plan, asked, list(files), values or {}, folder=folder)

    assert told([], [folder / "mine.yaml"]) == "clip4vla plan -c mine.yaml"
    assert told(["demo_sound"]) == "clip4vla plan demo_sound"
    assert told(["a/b.parquet"]) == "clip4vla plan"
    monkeypatch.chdir(tmp_path)  # Snakemake was called with --directory
    other = tmp_path / "o.yaml"
    assert told(["all"], [other], {"targets": ["a"]}) == (
        f"cd '{folder}' && clip4vla plan all -c {other} "
        """--set '{"targets":["a"]}'"""
    )
