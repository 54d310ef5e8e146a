"""The worked example of docs/own_clips.md, run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[2]
TEXT = (REPO / "docs" / "own_clips.md").read_text()
CHECKOUT = ("config.yaml", "demo", "envs", "experiments", "profiles", "rules", "workflow")


def blocks(language: str) -> list[str]:
    """Return the blocks of a language; "": those of none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def shell(command: str, folder: Path) -> str:
    """Run commands of the page; return what they print."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    logs = [path.read_text()[-1500:] for path in folder.rglob("logs/**/*.log")]
    assert done.returncode == 0, done.stdout + done.stderr[-4000:] + "\n".join(logs)[-8000:]
    return done.stdout


@pytest.fixture
def mine(tmp_path) -> Path:
    """The folder of the page, in a copy of the checkout, with its files."""
    for name in CHECKOUT:
        (tmp_path / name).symlink_to(REPO / name)
    prepare, *_ = blocks("sh")
    shell(prepare, tmp_path)
    folder = tmp_path / "mine"
    (folder / "clips.csv").write_text(blocks("csv")[0])
    for text in blocks("yaml"):
        name = text.split("\n", 1)[0].removeprefix("# ")
        (folder / name).write_text(text)
    return folder


@pytest.mark.workflow
def test_ten_clips_from_folder_to_row(mine):
    _, run, _ = blocks("sh")
    said = shell(run, mine)
    found = next(text for text in blocks("") if text.startswith("mine: 10 clips"))
    assert found in said
    for name, metric in (("mine_retrieval", "t2v_R1"), ("mine_classes", "accuracy")):
        tidy = pd.read_csv(mine / f"results/tables/{name}/tidy.csv")
        values = tidy[(tidy.metric == metric) & (tidy.gallery == "all")].value
        assert len(values) == 1 and values.between(0, 100).all()
    table = (mine / "results/tables/mine_retrieval/table.md").read_text()
    heading = next(text for text in blocks("") if text.startswith("| row"))
    assert table.count(heading.splitlines()[0]) == 1
    assert "3 × 2; 2/?" in table


def test_the_further_rows_are_planned_from_the_checkpoint_that_the_page_names(mine):
    first = make_plan([REPO / "config.yaml", mine / "mine.yaml"])
    trained = yaml.safe_load((mine / "more.yaml").read_text())["weights.trained.path"]
    (key,) = {cell.run_key for cell in first.cells if cell.table == "mine_retrieval"}
    assert trained == f"results/runs/{first.runs[key].start}/model.safetensors"
    more = make_plan([REPO / "config.yaml", mine / "mine.yaml", mine / "more.yaml"])
    assert {more.runs[cell.run_key].task for cell in more.cells} == {
        "retrieval", "captioning", "tagging",
    }  # fmt: skip
    assert len(more.stage("pretrain")) == 1 and len(more.cells) == 5
    assert more.versions == first.versions


@pytest.mark.workflow
@pytest.mark.slow
def test_further_rows_run(mine):
    _, run, further = blocks("sh")
    shell(run, mine)
    shell(further, mine)
    for name, rows in (("mine_starts", 3), ("mine_words", 1), ("mine_tags", 1)):
        table = (mine / f"results/tables/{name}/table.md").read_text()
        assert table.count("| ours (1 ") == rows
        assert "not run" not in table
