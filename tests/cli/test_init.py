"""`clip4vla init` writes a project from the files that the package ships, and overwrites none."""

import errno
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app, main
from clip4vla.common.errors import UserError
from clip4vla.common.packaged import workflow_file
from clip4vla.stages.project import TEMPLATES, init

REPO = Path(__file__).parents[2]


def test_a_project_has_all_that_its_readme_names(tmp_path):
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new")])
    assert done.exit_code == 0
    written = [Path(line) for line in done.output.splitlines()[:-1]]
    assert sorted(path for path in (tmp_path / "new").rglob("*") if path.is_file()) == written
    readme = (tmp_path / "new" / "README.md").read_text()
    table = [line for line in readme.splitlines() if line.startswith("| `")]
    named = [line.split("`")[1] for line in table]
    assert len(named) == 7 and all((tmp_path / "new" / name).exists() for name in named)
    assert {path.name for path in (tmp_path / "new" / "profiles").iterdir()} == {"local", "slurm"}


@pytest.mark.parametrize("name", ["config.yaml", "profiles/slurm/config.yaml"])
def test_nothing_is_written_where_one_file_exists(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{name}: exists\. Fix: "):
        init(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / name] and files[0].read_text() == "mine"


@pytest.mark.parametrize("place", ["file", "file/new", "/proc/new"])
def test_places_that_cannot_be_a_folder_are_one_line(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["init", place])
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 78 and line.startswith(f"clip4vla: {place}") and ". Fix: " in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_project_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    real, copied = shutil.copyfile, []

    def full(source, target):
        copied.append(target)
        if len(copied) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            init(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "README.md" in map(str, init(tmp_path))


def test_a_folder_of_clips_can_become_a_project(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_text("mine")
    init(tmp_path)
    assert (tmp_path / "Snakefile").is_file()


def test_every_template_ships_with_the_package():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["clip4vla"]
    shipped = {path for pattern in patterns for path in (REPO / "clip4vla").glob(pattern)}
    assert {path for path in TEMPLATES.rglob("*") if path.is_file()} <= shipped


def test_a_checkout_has_its_workflow_beside_the_package():
    assert workflow_file("workflow/Snakefile") == REPO / "workflow" / "Snakefile"
