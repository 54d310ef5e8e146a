"""What can be said of the workflow without running it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from clip4vla.cli.main import app
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.config.table import RESERVED_NAMES
from clip4vla.config.targets import FIXED

REPO = Path(__file__).parents[2]
SNAKEFILE = REPO / "workflow" / "Snakefile"
RULES = sorted((REPO / "rules").glob("*.smk"))


def run(*command: str, cwd: Path = REPO) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # rules call clip4vla
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


def snakemake(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", "snakemake", "-s", str(SNAKEFILE), *arguments, cwd=cwd)


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_python_is_formatted_and_clean():
    for arguments in (("check", "."), ("format", "--check", ".")):
        done = run(tool("ruff"), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_formatted():
    done = run(
        tool("snakefmt"), "--check", "workflow", "rules", "clip4vla/stages/project/Snakefile"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_snakemake_lint_is_content(tmp_path):
    done = snakemake("--lint", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_snakefile_fits_on_a_page():
    assert len(SNAKEFILE.read_text().splitlines()) <= 60


@pytest.fixture(scope="module")
def rule_names(tmp_path_factory) -> set[str]:
    done = snakemake("--list-rules", cwd=tmp_path_factory.mktemp("list"))
    assert done.returncode == 0, done.stderr
    return {line.strip() for line in done.stdout.splitlines()}


def test_profiles_name_rules_that_exist(rule_names):
    """Snakemake accepts a mistyped rule name in a profile without a word."""
    for path in (REPO / "profiles").glob("*/*.yaml"):
        profile = yaml.safe_load(path.read_text())
        named = {**profile.get("set-resources", {}), **profile.get("set-threads", {})}
        assert set(named) <= rule_names, path


def test_names_that_a_table_cannot_have_are_all_that_the_workflow_gives(rule_names):
    plan = make_plan([REPO / "config.yaml"])
    figures = {Path(name).stem for name in layout.figures(plan, "png")}
    figures -= {f"curves-{stage}" for stage in layout.trained_stages(plan)}  # no table's name
    assert (rule_names | figures) - set(plan.tables) == RESERVED_NAMES
    assert FIXED.keys() <= RESERVED_NAMES


def test_every_command_and_option_in_the_rules_exists():
    """A mistyped option fails at run time only, on a cluster after hours in a queue."""
    text = "\n".join(path.read_text() for path in RULES)
    shells = re.findall(r"shell:\s*((?:\"[^\n]*\"\s*)+)", text)
    lines = ["".join(re.findall(r'"([^\n]*)"', shell)) for shell in shells]
    ours = [line for line in lines if line.startswith("clip4vla ")]
    assert len(ours) > 10
    for line in ours:
        command, words = typer.main.get_command(app), line.split()[1:]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        options = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", line)
        assert set(options) <= known, (line, set(options) - known)


def test_no_profile_is_loaded_by_itself():
    """`profiles/default` would override `--profile`."""
    assert not (REPO / "profiles" / "default").exists()


def test_the_page_of_the_workflow_draws_every_rule(rule_names):
    page = (REPO / "docs" / "workflow.md").read_text()
    picture = page.split("```mermaid")[1].split("```")[0]
    tables = {path.stem for path in (REPO / "experiments").glob("*.yaml")}
    targets = {"all", "data", "pretrain", "report", "tables"} | tables
    assert {name for name in rule_names - targets if name not in picture} == set()


def test_the_papers_plan_needs_no_data(tmp_path):
    done = snakemake("--dry-run", "--profile", str(REPO / "profiles" / "local"), cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    total = int(next(line.split()[1] for line in text.splitlines() if line.startswith("total ")))
    assert 3000 < total < 5500  # 1,076 of them cache HowTo100M and AudioSet for CoAVT, too
    assert list(tmp_path.glob("*/**/*.json")) == []


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["jobs", "quiet"])
def test_a_dry_run_names_rows_and_ends_with_a_summary(tmp_path, quiet):
    given = ("-n", *quiet, "--profile", str(REPO / "profiles" / "local"))
    config = REPO / "demo" / "config.yaml"
    done = snakemake(*given, "--configfile", str(config), "--", "demo_sound", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    named = r"Job \d+: Fine-tune demo_\w+/\w+/demo, seed 1 and \d+ more rows? \([0-9a-f]{12}\)"
    assert bool(re.search(named, done.stdout)) == (not quiet)
    assert max(map(len, done.stdout.splitlines())) < 500  # no lists of files
    end = done.stdout[done.stdout.index("What would be done") :]
    assert re.search(r"finetune +│ 2 +│ no output yet", end)
    assert re.search(r"demo_sound +│ 1 +│ 1 +│ 2 +│ 2 +│ no output yet", end)
    assert f"clip4vla plan demo_sound -c {config}\n" in end
    assert ("add --quiet at the end" in end) == (not quiet)


def test_a_real_run_without_data_names_every_dataset_once(tmp_path):
    done = snakemake("--cores", "1", cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    for name in ("msrvtt", "vatex", "howto100m", "audioset"):
        lines = [line for line in text.splitlines() if line.strip().startswith(f"{name}:")]
        assert len(lines) == 1, text
        assert f"datasets.{name}.enabled: false" in lines[0]
    assert "Traceback" not in text


def test_a_typo_in_a_row_stops_the_dry_run_in_one_line(tmp_path):
    table = (REPO / "experiments" / "table5.yaml").read_text()
    (tmp_path / "table5.yaml").write_text(table.replace("objective.intra", "objective.intro"))
    (tmp_path / "mine.yaml").write_text("experiments: .\ntargets: [table5]\n")
    done = snakemake("--dry-run", "--configfile", "mine.yaml", cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "row inter: pretrain.objective.intro: unknown key; did you mean intra?" in text
    assert "Traceback" not in text


def test_a_message_that_names_a_target_says_that_options_belong_to_it():
    """Snakemake does not start without cores, and without their config it makes something else."""
    for path in (REPO / "clip4vla").rglob("*.py"):
        assert not re.search(r"`snakemake (\{|data|results)", path.read_text()), path
    assert layout.command_for("data").startswith("`snakemake ... data` (")


def test_tables_in_the_readme_and_the_docs_are_up_to_date(tmp_path):
    done = run(
        sys.executable,
        str(REPO / "workflow" / "scripts" / "docs_tables.py"),
        "--check",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
