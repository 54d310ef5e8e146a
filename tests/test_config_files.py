"""`-c mine.yaml` lies above the base config, wherever a command is typed; runs that are here."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.config.part import part_of
from clip4vla.config.planner import make_plan

REPO = Path(__file__).parents[1]
BASE = REPO / "config.yaml"
MINE = "targets: [table5]\nweights.openai.path: /nowhere/clip.pt\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("CLIP4VLA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE)
    return tmp_path


def said(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output


def test_overrides_need_no_base_config_beside_them(here):
    alone = said("targets", "-c", "mine.yaml")
    assert alone == said("targets", "-c", str(BASE), "-c", "mine.yaml")
    assert "results/rows/table5/scratch" in alone and "table1" not in alone
    (here / "more.yaml").write_text("targets: [table2]\n")
    assert "table2/" in said("targets", "-c", "mine.yaml", "-c", "more.yaml")


def test_without_options_the_base_is_found_from_any_folder(here):
    whole = said("targets")
    assert whole == said("targets", "-c", str(BASE)) and "table1/clip4vla" in whole


def test_a_config_of_this_folder_is_the_base(here):
    Path("config.yaml").write_text("targets: [nope]\n")
    assert "no table 'nope'" in str(CliRunner().invoke(app, ["targets"]).exception)
    error = CliRunner().invoke(app, ["targets", "-c", "mine.yaml"]).exception
    assert "no table 'table5'" in str(error)  # above this base, which names no experiments


@pytest.mark.parametrize("folder", ["out", "build/out"])
def test_a_parent_counts_as_a_base_by_its_workflow(here, monkeypatch, folder):
    (here / "config.yaml").write_text("targets: [nope]\n")
    Path(folder).mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert "table1/clip4vla" in said("targets")  # somebody else's config.yaml is passed over
    (here / "workflow").mkdir()
    (here / "workflow" / "Snakefile").write_text("")
    assert "no table 'nope'" in repr(CliRunner().invoke(app, ["targets"]).exception)


def test_what_the_workflow_says_is_taken_as_it_is(here, monkeypatch):
    monkeypatch.setenv("CLIP4VLA_CONFIG", "mine.yaml")
    error = CliRunner().invoke(app, ["targets"]).exception
    assert "no table 'table5': experiments/table5.yaml does not exist" in str(error)


def test_runs_that_are_here_are_listed_beside_those_of_the_config(here):
    key = "0123456789ab"
    (here / "results" / "runs" / key).mkdir(parents=True)
    (here / "runs" / key / "state").mkdir(parents=True)
    (here / "runs" / key / "state" / "step-000007.pt").write_text("")
    listed = said("runs", "ls", "-c", "mine.yaml")
    (line,) = [line for line in listed.splitlines() if key in line]
    assert "saved at step 7" in line and "(not in this config)" in line
    assert key not in said("runs", "ls", "table5/scratch", "-c", "mine.yaml")


def test_data_that_are_here_are_told_beside_those_of_the_config(here):
    (here / "data" / "other-v1-0a1b2c").mkdir(parents=True)
    (here / "data" / "other-v1-0a1b2c" / "plan.parquet").write_text("")
    text = " ".join(said("data", "status", "-c", "mine.yaml").split())
    assert "other-v1-0a1b2c: not part of any target of this config. Fix: " in text
    assert "here, but no target" not in said("data", "status", "msrvtt", "-c", "mine.yaml")
    assert "not planned yet" in said("data", "retry", "msrvtt", "-c", "mine.yaml")


def test_the_reference_is_written_into_a_checkout_alone(here):
    error = CliRunner().invoke(app, ["config", "reference", "."]).exception
    assert "not a checkout of this project" in str(error) and not Path("docs").exists()


def test_files_of_a_row_that_is_not_asked_for_are_not_missed(here):
    Path("mine.yaml").write_text(MINE.replace("table5", "table2, table5"))
    given = ["data", "check", "table5/scratch", "-c", "mine.yaml"]
    lacking = str(CliRunner().invoke(app, given).exception)
    assert "msrvtt: its annotations" in lacking and "audiocaps" not in lacking
    assert "audiocaps: its annotations" in str(CliRunner().invoke(app, given[:2]).exception)


def test_a_part_of_a_plan_has_no_more_than_was_named():
    plan = make_plan([BASE], {"targets": ["table5"]})
    key, version = plan.stage("evaluate")[0], sorted(plan.versions)[0]
    part = part_of(plan, keys={key, None}, versions={version})
    assert set(part.runs) == {key} and set(part.versions) == {version}
    assert not part.listed.keys() - {version}


def test_a_plan_names_a_tag_that_open_clip_does_not_have(here):
    """As `data check` does, and before anything is spent."""
    tag = "weights.mine.open_clip: ViT-B-32:nonsense\nrecipe.model.weights: mine\n"
    Path("tag.yaml").write_text(tag)
    line = "weights.mine.open_clip: open_clip has no 'ViT-B-32:nonsense'"
    assert f"unfit: {line}" in said("plan", "table1/clip", "-c", "tag.yaml")
    problems = CliRunner().invoke(app, ["data", "check", "table1/clip", "-c", "tag.yaml"])
    assert line in str(problems.exception)
