"""Snakemake refuses unknown targets, rows and rules, with the nearest names."""

import pytest
from test_static import REPO, snakemake

DEMO = ("--configfile", str(REPO / "demo" / "config.yaml"), "-n", "--quiet", "all")


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--", "demo_retrieva"], "no target 'demo_retrieva' in this config; did you mean demo_retrieval,"),
        (["--", "results/rows/demo_retrieval/clip4vl"], "did you mean results/rows/demo_retrieval/clip4vla"),
        (["--", "results/rows/demo_sound/clip4vla"], "no target 'results/rows/demo_sound/clip4vla'"),  # of another table
        (["--omit-from", "finetun", "--", "all"], "did you mean finetune"),
        (["--set-threads", "evaluat=2", "--", "all"], "no rule 'evaluat' in the workflow; did you mean evaluate?"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_in_a_dry_run(tmp_path, asked, said):
    done = snakemake(*DEMO, *asked, cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in text
    where, line, *places = text.splitlines()
    assert where.startswith("WorkflowError in file") and said in line
    assert all(place.startswith("  File ") for place in places)  # Snakemake's own, of the rules


@pytest.mark.parametrize(
    "asked",
    [
        ["--until", "ledger", "--forcerun", "plan_dataset", "--", "data"],
        ["--set-threads", "evaluate=2", "--", "./results/rows/demo_retrieval/clip4vla"],
    ],
)
def test_a_known_name_is_not(tmp_path, asked):
    done = snakemake(*DEMO, *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
