"""Output of commands: full names at any width, literal texts, one line per target."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4vla.cli.main import app
from clip4vla.common.console import IN_A_PIPE, NARROWEST, console, table

REPO = Path(__file__).parents[2]
NAME = "fusion/global_to_global/audiocaps/s1/" + "x" * 100


def printed(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "-c", str(REPO / "config.yaml")])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("columns", [None, "40", "120"])
def test_no_name_is_cut(monkeypatch, capsys, columns):
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    if columns:  # rich's word for a terminal
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", columns)
    out = console()
    assert out.width == (max(int(columns), NARROWEST) if columns else IN_A_PIPE)
    shown = table("run key", "first row that needs it")
    shown.add_row("0123456789ab", NAME)
    out.print(shown)
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "".join(cells[2].strip() for cells in lines) == NAME
    assert "".join(cells[1].strip() for cells in lines) == "0123456789ab"


def test_the_rows_of_a_plan_can_be_told_apart_in_a_pipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "runs ls"):
        text = printed(*command.split(), "fusion")
        assert "…" not in text
        assert all(text.count(f"global_to_global/audiocaps/s{seed} ") == 2 for seed in range(3))


@pytest.mark.parametrize("folder", ["/data/[/x]/vid", "/data/[red]/vid", "/data/:smile:/vid"])
def test_a_path_is_printed_literally(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    values = f'{{"datasets": {{"msrvtt": {{"media": "{folder}"}}}}}}'
    assert f"its media in {folder} missing" in printed("plan", "table3", "--set", values)


def test_targets_are_one_line_each_in_a_pipe_and_fit_a_terminal(monkeypatch):
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    lines = printed("targets").splitlines()
    assert any(line.startswith("results/rows/table1/clip4vla ") for line in lines)
    assert not any(line.startswith(" ") or line.endswith(" ") for line in lines)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    wrapped = printed("targets").splitlines()
    assert max(map(len, wrapped)) <= 80
    assert " ".join(" ".join(wrapped).split()) == " ".join(" ".join(lines).split())
