"""Every help page ends with a call to copy, and a shell completes commands and targets."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from clip4vla.cli.main import app

REPO = Path(__file__).parents[2]
NAMED = (Path(sys.executable).parent / "clip4vla").is_file()
ASKS = """
eval "$(_CLIP4VLA_COMPLETE=source_bash clip4vla)"
COMP_WORDS=({words})
COMP_CWORD={current}
_clip4vla_completion clip4vla
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def commands(command, path=()):
    """Every command and group, with the words that lead to it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_help_page_ends_with_a_call_of_it(path):
    page = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
    last = page.strip().splitlines()[-1].strip()
    assert last.startswith("Example: clip4vla "), page
    words = shlex.split(last)[2:]
    assert tuple(words[: len(path)]) == path
    inner, given = ALL[()], words
    while hasattr(inner, "commands"):
        inner, given = inner.commands[given[0]], given[1:]
    context = type(inner.make_context("x", [], resilient_parsing=True))(inner)
    options, left, _ = inner.make_parser(context).parse_args(list(given))
    assert not left
    needed = {parameter.name for parameter in inner.params if parameter.required}
    assert needed <= {name for name, value in options.items() if value}


def test_the_first_page_names_the_laboratory_and_its_families():
    page = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "A laboratory for models of text, pictures and sound" in page
    assert "Model families: clip4vla, coavt." in page


@pytest.mark.skipif(not NAMED, reason="the command is not installed")
@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("clip4vla ru", {"runs"}),
        ("clip4vla runs d", {"diff"}),
        ("clip4vla plan tabl", {"tables", *(f"table{n}" for n in range(1, 7))}),
        ("clip4vla runs ls table5/scr", {"table5/scratch"}),
        ("clip4vla runs show table5/scratch/msr", {"table5/scratch/msrvtt/s0"}),
        ("clip4vla tables build table5", {"table5"}),
        ("clip4vla data status msr", {"msrvtt"}),
    ],
)
def test_bash_completes_commands_and_targets(words, answers, tmp_path):
    script = ASKS.format(words=words, current=len(words.split()) - 1)
    environment = {name: value for name, value in os.environ.items() if "CLIP4VLA" not in name}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = str(REPO)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    completed = set(done.stdout.split())
    assert answers <= completed, done.stderr
    prefix = words.split()[-1]
    assert all(word.startswith(prefix) for word in completed)
    assert done.stderr == ""
