"""Commands find their folder and its config from anywhere inside a project or an output folder."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.config.recorded import RECORD, record_config, recorded_config

REPO = Path(__file__).parents[2]
BASE = REPO / "config.yaml"
KEY = "0123456789ab"


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An output folder whose last run took the base, mine.yaml and a value."""
    for name in ("CLIP4VLA_CONFIG", "CLIP4VLA_SET"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "out"
    (folder / "results" / "runs" / KEY).mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text("targets: [table2]\n")
    record_config([BASE, tmp_path / "mine.yaml"], {"targets": ["table5"]}, folder)
    monkeypatch.chdir(folder / "results")
    return folder


def test_an_output_folder_remembers_the_config_of_its_last_run(out):
    names = json.loads(said("targets", "--json"))
    assert "table5" in names and "results/rows/table5/scratch" in names
    assert not {"table1", "table2"} & names.keys()


def test_the_runs_of_the_output_folder_are_listed_from_inside(out):
    listed = {run["key"]: run for run in json.loads(said("runs", "ls", "--json"))}
    assert listed[KEY]["name"] == "(not in this config)"
    assert sum(run["state"] == "to do" for run in listed.values()) > 10
    assert Path.cwd() == out / "results"


def test_c_is_relative_to_where_it_is_typed(out):
    (out / "results" / "other.yaml").write_text("targets: [table3]\n")
    names = json.loads(said("targets", "-c", "other.yaml", "--json"))
    assert "table3" in names and "table5" not in names
    listed = said("runs", "ls", "-c", "other.yaml")
    assert KEY in listed and "table3/" in listed


def test_a_moved_or_damaged_record_is_reported_in_one_line(out):
    (out.parent / "mine.yaml").unlink()
    with pytest.raises(UserError, match=r"mine\.yaml, does not exist\. Fix: pass the config"):
        recorded_config(out)
    whole = json.dumps({"config_files": [str(BASE)], "values": {}})
    for damaged in (
        "[]",
        whole.replace(f'"{BASE}"', ""),
        whole.replace("{}", '{"targets": NaN}'),
    ):
        (out / RECORD).write_text(damaged)
        with pytest.raises(UserError, match="not a record of a config"):
            recorded_config(out)
    assert "table1" in said("targets", "-c", str(BASE))  # which needs no record


def test_an_output_folder_can_be_moved_with_the_configs_in_it(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "config.yaml").write_text("")
    record_config([one / "config.yaml"], {}, one)
    one.rename(two)
    assert recorded_config(two) == ([two / "config.yaml"], {})


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("CLIP4VLA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    said("init", "project")
    return tmp_path / "project"


def test_a_project_is_found_from_its_folders(project, monkeypatch):
    monkeypatch.chdir(project / "profiles" / "local")
    names = json.loads(said("targets", "--json"))
    assert "results/rows/clips/both" in names and "table1" not in names
    (project / "profiles" / "local" / "mine.yaml").write_text('tracking.sink: "off"\n')
    assert "results/rows/clips/both" in said("targets", "-c", "mine.yaml")


def test_a_project_keeps_its_config_whatever_ran_last(project, monkeypatch):
    record_config([BASE], {"targets": ["table5"]}, project)
    monkeypatch.chdir(project / "experiments")
    assert "table5" not in said("targets")


def test_an_override_named_config_yaml_lies_above_the_base(project, monkeypatch):
    """As for Snakemake's --configfile: in a folder below a project it is no base."""
    (project / "more").mkdir()
    monkeypatch.chdir(project / "more")
    (project / "more" / "config.yaml").write_text("preset: ours\n")
    assert "results/rows/clips/both" in said("targets", "-c", "config.yaml")


@pytest.mark.parametrize(
    "command",
    [
        ("examples", KEY, "--out"),
        ("checkpoint", "import", "x.pt"),
        ("embed", "text", "x.safetensors", "x.txt", "--out"),
        ("data", "status", "--missing"),
    ],
)
def test_no_output_of_the_workflow_is_overwritten(out, command):
    page = out / "results" / "runs" / KEY / "examples.html"
    page.write_text("of a job")
    done = CliRunner().invoke(app, [*command, f"runs/{KEY}/examples.html"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(f"runs/{KEY}/examples.html: an output of the workflow")
    assert page.read_text() == "of a job"
