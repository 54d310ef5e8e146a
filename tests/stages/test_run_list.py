"""`clip4vla runs`: what is here, what it says, what differs, and what may go."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli import app
from clip4vla.config.plan import make_plan
from clip4vla.errors import UserError
from clip4vla.files import sole_owner, write_json
from clip4vla.stages import run_list

REPO = Path(__file__).parents[2]
CONFIG = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
OPTIONS = [part for path in CONFIG for part in ("-c", str(path))]
STRAY = "0123456789ab"


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


@pytest.fixture
def here(plan, tmp_path, monkeypatch):
    """Two finished evaluations, one training on its way, and a run of an older config."""
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in plan.cells if cell.table == "demo_retrieval" and cell.seed == 0]
    for number, cell in enumerate(cells[:2]):
        folder = Path("results/runs", cell.run_key)
        write_json(folder / "config.json", plan.runs[cell.run_key].scientific())
        gallery = {"n_gallery": 30, "metrics": {"t2v_R1": 10.0 + number}}
        write_json(folder / "metrics.json", {"gallery": "all", "galleries": {"all": gallery}})
        for name in ("predictions.parquet", "record.json"):
            (folder / name).touch()
    training = plan.runs[cells[0].run_key].start
    Path("runs", training, "state").mkdir(parents=True)
    Path("runs", training, "state", "step-000012.pt").touch()
    Path("results/runs", STRAY).mkdir()
    Path("results/runs", STRAY, "model.safetensors").write_bytes(b"x" * 1000)
    Path("runs", STRAY).mkdir()
    return [cell.run_key for cell in cells[:2]] + [training]


def test_runs_are_listed_with_state_number_and_row(plan, here):
    listed = {run.key: run for run in run_list.list_runs(plan)}
    assert listed.keys() == plan.runs.keys()
    assert listed[here[0]].state in ("done", "to do")
    assert listed[here[0]].number == "t2v_R1 10.0 (N 30)"
    assert listed[here[2]].state == "saved at step 12"
    assert listed[here[0]].name.startswith("demo_retrieval/")


def test_a_run_is_shown(here):
    shown = run_list.show(here[0])
    assert shown["config"]["stage"] == "evaluate"
    assert shown["numbers"]["galleries/all/metrics/t2v_R1"] == 10.0
    with pytest.raises(UserError, match="not here"):
        run_list.show("../../etc/pa")
    with pytest.raises(UserError, match="not finished"):
        run_list.show(STRAY)


def test_differences_are_those_of_the_config_and_the_numbers(here):
    settings, found = run_list.differences(here[0], here[1])
    assert "modalities" in settings and "stage" not in settings
    assert found["galleries/all/metrics/t2v_R1"] == (10.0, 11.0)


def test_what_no_row_uses_is_listed_and_only_then_removed(plan, here):
    assert [key for key, _ in run_list.unused(plan)] == [STRAY]
    done = CliRunner().invoke(app, ["runs", "gc", *OPTIONS])
    assert done.exit_code == 0 and STRAY in done.output
    assert Path("results/runs", STRAY).is_dir()
    done = CliRunner().invoke(app, ["runs", "gc", "--delete", *OPTIONS])
    assert done.exit_code == 0 and "removed" in done.output
    assert not Path("results/runs", STRAY).exists() and not Path("runs", STRAY).exists()
    assert Path("results/runs", here[0], "metrics.json").is_file()


def test_a_run_that_is_trained_is_not_removed(here):
    with sole_owner(Path("runs", STRAY)), pytest.raises(UserError, match="stop it first"):
        run_list.remove(STRAY)
    assert Path("results/runs", STRAY).is_dir()


@pytest.mark.parametrize("command", [["ls", "demo_audio"], ["show"], ["diff"]])
def test_the_commands_print(here, command):
    given = {"show": [here[0]], "diff": here[:2]}.get(command[0], [])
    options = OPTIONS if command[0] == "ls" else []
    done = CliRunner().invoke(app, ["runs", *command, *given, *options])
    assert done.exit_code == 0, done.output
    if command[0] == "show":
        assert json.loads(done.output)["numbers"]
