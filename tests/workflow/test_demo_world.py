"""The demo's synthetic world is learnt, and the closing lines say how well."""

import csv
import subprocess
import sys

import pytest
from mini import REPO, free_port

sys.path.insert(0, str(REPO / "demo"))
import run as demo

TABLE = "results/tables/demo_world/table.csv"


def test_the_closing_lines_give_recall_by_each_sense(tmp_path):
    assert demo.what_was_learnt(tmp_path) == ""
    path = tmp_path / TABLE
    path.parent.mkdir(parents=True)
    path.write_text(
        "row,column,metric,ours\n"
        "vision,t2v_R1,t2v_R1,12.5\nvision,t2v_R5,t2v_R5,62.5\n"
        "audio,t2v_R1,t2a_R1,25.0\nboth,t2v_R1,t2v_R1,81.25\n"
    )
    assert "R@1 is 12 by sight, 25 by hearing, 81 by both" in demo.what_was_learnt(tmp_path)


def test_the_closing_lines_of_a_project_without_tables_or_mlflow(tmp_path, capsys):
    demo.where_to_look(tmp_path, 61.0)
    told = capsys.readouterr().out
    assert "no target of this config is a table" in told and "MLflow" not in told
    for name in ("results/tables/clips/table.md", "mlflow/synced.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('{"runs": 7}')
    demo.where_to_look(tmp_path, 61.0)
    told = capsys.readouterr().out
    assert f"\n  one table            {tmp_path}/results/tables/clips/table.md\n" in told
    assert "\n  7 MLflow runs" in told


@pytest.mark.slow
@pytest.mark.workflow
def test_both_senses_find_what_neither_finds_alone(tmp_path):
    """Through the rules, from the generated clips on; 12.5 and 25 are all that one sense can find."""
    command = [sys.executable, str(REPO / "demo" / "run.py"), "--out", str(tmp_path)]
    target = "results/tables/demo_world/table.md"
    done = subprocess.run(
        [*command, "--port", str(free_port()), "--", target], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / TABLE, newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {row["row"]: float(row["ours"]) for row in rows if row["column"] == "t2v_R1"}
    assert 6 < found["vision"] < 25 and 15 < found["audio"] < 38
    assert found["both"] > 60
