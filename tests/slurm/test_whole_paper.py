"""The whole paper in miniature: every row of every table, on two nodes, from official files to tables."""

import csv
import json
from collections import Counter

import pytest
from paper import Paper

from clip4vla.config.planner import make_plan
from clip4vla.results.compare import NO_DATA

TABLES = [
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "figure4",
    "fusion",
    "policies",
    "audio_controls",
    "events",
    "audio_visual",
    "coavt_retrieval",
    "coavt_events",
    "coavt_audio_visual",
    "coavt_ablation",
    "systems",
    "systems_missing",
]


@pytest.fixture
def paper(tmp_path):
    return Paper(tmp_path / "project")


def plan_of(paper):
    return make_plan([paper.folder / name for name in ("config.yaml", "mine.yaml")])


def test_every_row_of_every_table_is_planned_and_what_they_share_is_planned_once(paper):
    plan = plan_of(paper)
    rows = Counter(cell.table for cell in plan.cells)
    assert list(plan.tables) == TABLES and set(rows) == set(TABLES)
    for name, table in plan.tables.items():
        assert {cell.row for cell in plan.cells if cell.table == name} == {
            row.row for row in table.rows
        }
    evaluations = {
        name: {cell.run_key for cell in plan.cells if cell.table == name} for name in TABLES
    }
    assert len(evaluations["figure4"]) == 3, "all shares of a dataset are one evaluation"
    assert evaluations["policies"] == evaluations["audio_controls"], "so are policies and controls"
    assert len(evaluations["policies"]) == 2
    families = Counter(plan.runs[key].model.family for key in plan.stage("pretrain"))
    assert families == {"clip4vla": 4, "coavt": 14}  # two rows of the ablation are the main one


@pytest.mark.slurm
@pytest.mark.slow
def test_the_whole_paper_in_miniature(cluster, setup, paper):
    """`snakemake --profile slurm all`: every number is there, nothing was done twice."""
    setup(paper)
    command = ("snakemake", "--profile", "slurm", "all", "--configfile", "mine.yaml")
    paper.run(*command, timeout=5400)
    plan = plan_of(paper)

    results = paper.folder / "results"
    disabled = {name for name, dataset in plan.config.datasets.items() if not dataset.enabled}
    for name, table in plan.tables.items():
        with open(results / "tables" / name / "table.csv", newline="") as stream:
            entries = [entry for entry in csv.DictReader(stream) if entry["kind"] == "ours"]
        assert {entry["row"] for entry in entries} == {row.row for row in table.rows}
        for entry in entries:
            if entry["dataset"] in disabled:
                assert (entry["verdict"], entry["ours"]) == (NO_DATA, ""), entry
                continue
            printed_only = entry["verdict"] == "paper only"  # costs that no evaluation measures
            assert printed_only or float(entry["ours"]) >= 0, entry
    for key in plan.stage("evaluate"):
        found = json.loads((results / "runs" / key / "metrics.json").read_text())
        for gallery in found["galleries"].values():
            assert gallery["n_gallery"] > 0 and len(gallery["ids_sha256"]) == 64
    links = {"vision": 0, "text": 0}
    for key in plan.stage("substitute"):
        lines = (results / "runs" / key / "substitution.tsv").read_text().splitlines()
        links[plan.runs[key].neighbours] += len(lines) - 1
    assert links == {"vision": 2, "text": 2}, "the silent clip of MSR-VTT, and that of VATEX"

    for key in (*plan.stage("pretrain"), *plan.stage("finetune")):
        attempts = (paper.folder / "runs" / key / "attempts.jsonl").read_text().splitlines()
        assert [json.loads(line)["end"] for line in attempts] == ["finished"], key
    for name in ("index.html", "report.zip", "tidy.csv", "numbers.tex", "record.json"):
        assert (results / name).stat().st_size > 0
    assert (paper.folder / "mlflow" / "mlflow.db").exists()
    again = paper.run(*command)
    assert "Nothing to be done" in again.stdout + again.stderr
