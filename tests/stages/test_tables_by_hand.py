"""`clip4vla tables ...` run by hand: its outputs, which leave all jobs to do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_text
from clip4vla.config import layout
from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[2]
CONFIG = ["--config", str(REPO / "config.yaml"), "--config", str(REPO / "demo" / "config.yaml")]
TABLES = ("demo_classification", "demo_captioning")
VALUES = {"targets": list(TABLES)}
FOLDER = Path("results/preview/tables")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Make an empty working directory."""
    monkeypatch.chdir(tmp_path)


def by_hand(*words: str, values: dict | None = None) -> str:
    given = ["--set", json.dumps(VALUES | (values or {}))]
    done = CliRunner().invoke(app, ["tables", *words, *CONFIG, *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def plan_of_demo():
    return make_plan([REPO / "config.yaml", REPO / "demo" / "config.yaml"], VALUES)


def jobs(target: str) -> set[str]:
    """Return the rules that Snakemake would run for a target."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "workflow" / "Snakefile")]
    command += ["--configfile", str(REPO / "demo" / "config.yaml")]
    command += ["--config", f"targets={json.dumps(TABLES)}", "--quiet", "rules", "-n"]
    done = subprocess.run([*command, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, re.MULTILINE))


def test_without_a_table_all_of_them_are_built_in_a_fresh_folder():
    pages = by_hand("build").split()
    assert pages == [str(FOLDER / name / "table.html") for name in TABLES]
    for page in pages:
        assert "not run" in Path(page).read_text()
    assert by_hand("build", TABLES[1]).split() == pages[1:]


def test_the_page_links_existing_examples():
    plan = plan_of_demo()
    one, two = plan.stage("evaluate")[:2]
    write_text(f"results/runs/{one}/examples.html", "")
    assert by_hand("page").strip() == "results/preview/index.html"
    page = Path("results/preview/index.html").read_text()
    assert f'href="../runs/{one}/examples.html"' in page and f"runs/{two}" not in page


def test_the_page_links_the_server_of_mlflow():
    uri = "https://mlflow.example:5000/lab"
    by_hand("page", values={"tracking": {"sink": "deferred", "uri": uri}})
    assert f'<a href="{uri}">' in Path("results/preview/index.html").read_text()


def test_printing_a_row_or_a_sheet_writes_no_file():
    assert "| ours | not run |" in by_hand("row", TABLES[0], "clip4vla")
    assert json.loads(by_hand("sheet", TABLES[0]))["table"] == TABLES[0]
    assert list(Path().iterdir()) == []


def test_a_table_is_that_of_the_config_not_of_an_older_sheet():
    by_hand("build", TABLES[0])
    sheet = FOLDER / TABLES[0] / "rows.json"
    before = read_json(sheet)
    changed = {"recipe": {"inputs": {"max_frames": 2}}}
    by_hand("build", TABLES[0], values=changed)
    after = read_json(sheet)
    assert after == json.loads(by_hand("sheet", TABLES[0], values=changed)) != before
    told = sheet.with_name("table.csv").read_text()
    assert before["rows"][0]["cells"][0]["run_key"] not in told
    assert after["rows"][0]["cells"][0]["run_key"] in told


@pytest.mark.parametrize("target", ["results/rows/demo_classification/clip4vla", TABLES[0]])
def test_snakemake_still_runs_rows_that_were_previewed(target):
    by_hand("sheet", TABLES[0])
    by_hand("row", TABLES[0], "clip4vla")
    by_hand("build")
    assert {"finetune", "evaluate"} <= jobs(target)


@pytest.mark.parametrize("target", [TABLES[0], "tables"])
def test_tables_that_are_there_without_their_runs_are_not_done(target):
    """Such as those of another machine, although Snakemake treats existing outputs as up to date."""
    plan = plan_of_demo()
    for name in layout.table_outputs(plan):
        write_text(name, "")
    assert {"finetune", "evaluate"} <= jobs(target)


def test_only_jobs_write_into_the_folder_of_the_rules(monkeypatch):
    write_text("results/index.html", "of a job")
    for command in ("build", "page"):
        given = ["tables", command, *CONFIG, "--out", str(Path("results").absolute())]
        error = CliRunner().invoke(app, given).exception
        assert isinstance(error, UserError) and "only jobs of the workflow write" in str(error)
    assert [path.name for path in Path("results").iterdir()] == ["index.html"]
    assert Path("results/index.html").read_text() == "of a job"
    monkeypatch.setenv("CLIP4VLA_CONFIG", f"{REPO}/config.yaml:{REPO}/demo/config.yaml")
    monkeypatch.setenv("CLIP4VLA_SET", json.dumps(VALUES))
    done = CliRunner().invoke(app, ["tables", "build", "--out", "results"], catch_exceptions=False)
    assert done.exit_code == 0 and Path("results/tables", TABLES[0], "table.html").is_file()


@pytest.mark.parametrize("words", [["sheet", "nix"], ["build", "nix"], ["row", "nix", "x"]])
def test_an_unknown_table_is_refused_with_a_fix(words):
    given = ["tables", *words, *CONFIG, "--set", json.dumps(VALUES)]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, UserError) and "'nix" in str(error) and "Fix: " in str(error)


def test_the_outputs_of_the_rules_are_known_as_such():
    names = layout.all_outputs(plan_of_demo())
    assert [name for name in names if not layout.is_output(Path(name))] == []
    for mine in ("results/preview/index.html", "results/vectors.npz", "data/texts/vectors.npz"):
        assert not layout.is_output(Path(mine))
