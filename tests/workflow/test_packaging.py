"""The workflow as a Snakemake module, in a checkout and from a wheel, outside the repository."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from test_static import REPO, run

from clip4vla.config.planner import make_plan

OTHERS = """
import clip4vla

rule all:
    input:
        "clips.txt",

module lab:
    snakefile:
        clip4vla.snakefile()
    config:
        config["lab"]

use rule * from lab as lab_*

rule count_clips:
    input:
        "data/{version}/plan.parquet",
    output:
        "clips.txt",
    shell:
        "ls {{input}} > {{output}}"
"""


def snakemake(*arguments: str, cwd: Path) -> str:
    done = run(sys.executable, "-m", "snakemake", *arguments, cwd=cwd)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return text


@pytest.fixture
def others(tmp_path: Path) -> tuple[Path, str]:
    """The workflow of somebody else, with a config of its own, that uses ours on the demo's clips."""
    (tmp_path / "lab").mkdir()
    demo = (REPO / "demo" / "config.yaml").read_text()
    demo = demo.replace("experiments: experiments", f"experiments: {REPO}/demo/experiments")
    demo = demo.replace("annotations: .", f"annotations: {REPO}/demo")
    base = f"paper: {REPO}/experiments/paper.tsv\n"
    (tmp_path / "lab" / "base.yaml").write_text(base + demo)
    versions = make_plan([tmp_path / "lab" / "base.yaml"]).versions
    dataset = next(version for version, name in versions.items() if name == "demo")
    (tmp_path / "Snakefile").write_text(OTHERS.format(version=dataset))
    (tmp_path / "own.yaml").write_text(
        "samples: 3\nlab: {configfile: lab/base.yaml, targets: [demo_sound]}\n"
    )
    return tmp_path, dataset


def test_a_snakefile_of_others_uses_ours_as_a_module(others):
    """Its own `all` and config stay; ours runs below its folder, with the config that it passes."""
    folder, dataset = others
    text = snakemake("--cores", "1", "--configfile", "own.yaml", cwd=folder)
    assert "lab_plan_dataset" in text
    assert (folder / "clips.txt").read_text() == f"data/{dataset}/plan.parquet\n"
    assert (folder / "data" / dataset / "splits.parquet").is_file()
    rules = snakemake("--list-rules", "--configfile", "own.yaml", cwd=folder).split()
    assert "lab_demo_sound" in rules and "lab_demo_retrieval" not in rules


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("config:\n        config", "prefix:\n        'a/'\n    config:\n        config", "prefix of the module"),
        ('config["lab"]', '{"targets": ["demo_sound"]}', "no `configfile`"),
        ('config["lab"]', '{"configfile": "{lab}/base.yaml"}', "in the path of a config file. Fix: rename"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_work_is_refused_in_one_line(others, old, new, message):
    folder, _ = others
    shutil.copytree(folder / "lab", folder / "{lab}")
    text = (folder / "Snakefile").read_text()
    (folder / "Snakefile").write_text(text.replace(old, new))
    done = run(sys.executable, "-m", "snakemake", "-n", "--configfile", "own.yaml", cwd=folder)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and message in text and "Traceback" not in text


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel, built from a copy of the sources and installed."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools older than the build needs: make install")
    top = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPO / "clip4vla", top / "source" / "clip4vla")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPO / name, top / "source")
    for name in ("workflow", "rules", "envs", "profiles"):
        shutil.copytree(REPO / name, top / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(top)]
    subprocess.run([*pip, *wheel, str(top / "source")], check=True)
    (made,) = top.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(top / "site"), made], check=True)
    return top / "site"


def test_the_wheel_is_enough_for_the_workflow(installed, tmp_path, monkeypatch):
    """A new project from the wheel, outside the repository: `clip4vla init`, then a dry run."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    where = run(sys.executable, "-c", "import clip4vla; print(clip4vla.snakefile())", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    done = run(sys.executable, "-m", "clip4vla", "init", "project", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    project = tmp_path / "project"
    text = snakemake("-n", "--profile", "profiles/local", cwd=project)
    jobs = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) == 2)
    assert {"plan_dataset", "finetune", "evaluate", "build_table"} <= jobs.keys()
    wrong = run(sys.executable, "-m", "snakemake", "-n", "--", "clip", cwd=project)
    assert wrong.returncode == 1 and "did you mean clips" in wrong.stdout + wrong.stderr
    real = run(sys.executable, "-m", "snakemake", "--cores", "1", cwd=project)
    assert real.returncode == 1 and "clips: its media in " in real.stdout + real.stderr
