"""Files that services and tools read: they parse, and name commands and versions that exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

import clip4vla

REPO = Path(__file__).parents[1]
MAKEFILE = (REPO / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))
FILES = [
    *sorted((REPO / ".github").rglob("*.yml")),
    *(REPO / name for name in ("CITATION.cff", "mkdocs.yml")),
    *sorted(REPO.glob(".*.y*ml")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_yaml_parses_to_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def jobs() -> dict[str, dict]:
    return {
        name: job
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    }


def test_workflows_run_targets_of_make():
    found = jobs()
    commands = [step["run"] for job in found.values() for step in job["steps"] if "run" in step]
    assert {"lint", "tests", "docs", "wheel"} <= found.keys()
    for command in commands:
        program, target = shlex.split(command)
        assert program == "make" and target in TARGETS, command


def test_workflows_test_every_python_that_the_package_names():
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if ":: 3." in text]
    assert jobs()["tests"]["strategy"]["matrix"]["python"] == named


def test_every_target_of_make_is_phony_and_described():
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    assert phony == TARGETS == set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))


def test_hooks_of_pre_commit_are_the_tools_of_make_lint():
    (repo,) = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    lint = MAKEFILE.split("\nlint:")[1].split("\n\n")[0].replace("$(BIN)", ".venv/bin")
    for hook in repo["hooks"]:
        program, *rest = hook["entry"].split()
        assert program in lint, hook["id"]
        assert all(word in lint for word in rest if word.endswith(".py")), hook["id"]


def test_one_version_everywhere():
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == clip4vla.__version__ == str(cited)
    assert PROJECT["version"] in (REPO / "CHANGELOG.md").read_text()


def test_containers_install_as_the_readme_does():
    for name in ("Dockerfile", "apptainer.def"):
        text = (REPO / "envs" / name).read_text()
        assert "make install" in text and "/opt/clip4vla/.venv/bin:" in text, name


def test_modules_that_tests_import_by_their_name_alone_have_different_names():
    """One process collects all tests: a second module of a name would be the first one."""
    folders = [REPO / name for name in ("demo", "benchmarks", "workflow/scripts")]
    folders += {path.parent for path in (REPO / "tests").rglob("*.py")}
    names = [path.stem for folder in folders for path in folder.glob("*.py")]
    again = {name for name in names if names.count(name) > 1}
    assert again <= {"conftest", "__init__"}
