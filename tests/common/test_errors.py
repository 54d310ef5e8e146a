"""Errors of disks and folders are one line with the fix; other errors keep their traceback."""

import ast
import errno
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clip4vla
from clip4vla.cli.main import fail, one_line_errors
from clip4vla.common import packaged
from clip4vla.common.errors import (
    EXIT_RETRY,
    EXIT_USER_ERROR,
    RetryLater,
    UserError,
    on_one_line,
    printable,
)
from clip4vla.common.files import write_text


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a.yaml:3: key: wrong. Fix: do this"), EXIT_USER_ERROR, "a.yaml:3: key: wrong"),
        (RetryLater("stopped at step 3, saved"), EXIT_RETRY, "stopped at step 3"),
        (
            OSError(errno.ENOSPC, "No space left"),
            EXIT_USER_ERROR,
            "the disk is full. Fix: free some",
        ),
        (OSError(errno.EROFS, "Read-only", "out/x"), EXIT_USER_ERROR, "out/x: the file system is"),
        (PermissionError(errno.EACCES, "Denied", "out"), EXIT_USER_ERROR, "out: no permission"),
        (FileNotFoundError(errno.ENOENT, "None", "in"), EXIT_USER_ERROR, "in: no such file"),
        (OSError(errno.EFBIG, "File too large", "out"), EXIT_USER_ERROR, "out: the file would be"),
        (OSError(errno.ESTALE, "Stale file handle", "x.tar"), 1, "x.tar: Stale file handle"),
        (OSError(errno.EIO, "Input/output error", "x.tar"), 1, "x.tar: Input/output error"),
        (ConnectionResetError(errno.ECONNRESET, "Reset", "x"), 1, "x: Reset"),
        (FileNotFoundError(errno.ENOENT, "None", "a\nb"), EXIT_USER_ERROR, "a\\nb: no such file"),
        (UserError("a\nb: wrong. Fix: rename it"), EXIT_USER_ERROR, "a\\nb: wrong"),
        (RetryLater("a\nb: saved"), EXIT_RETRY, "a\\nb: saved"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "x"), 1, "x: Cannot allocate memory"),
    ],
)
def test_errors_of_users_and_machines_are_one_line(capsys, error, code, words):
    with pytest.raises(SystemExit) as left, one_line_errors():
        raise error
    assert left.value.code == code
    printed = capsys.readouterr().err
    assert words in printed and (". Fix: " in printed or not isinstance(error, OSError))
    assert printed.startswith("clip4vla: ") and printed.count("\n") == 1


def test_several_problems_are_a_line_each_whatever_process_found_them(capsys):
    error = pickle.loads(pickle.dumps(UserError("a\nb: one. Fix: x", "two. Fix: y")))
    with pytest.raises(SystemExit), one_line_errors():
        raise error
    assert capsys.readouterr().err.splitlines() == [
        "clip4vla: a\\nb: one. Fix: x",
        "clip4vla: two. Fix: y",
    ]


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("bug")


def test_control_characters_of_names_in_files_reach_no_terminal(capsys):
    text = "a\x1b[2Jb\x07\u202ec\ttab \u72ac\nsecond line"
    assert printable(text) == "a\\x1b[2Jb\\x07\\u202ec\\ttab \u72ac\nsecond line"
    assert on_one_line("new\nline \udcff") == "new\\nline \\udcff"
    with pytest.raises(SystemExit):
        fail(text, 78)
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_error(tmp_path, closed):
    """Schedulers and daemons start programs without some of them."""
    program = f"{shlex.quote(sys.executable)} -c 'from clip4vla.cli.main import main; main()'"
    command = f"{program} data probe demo-v1-12345678 0 {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 78  # there is nothing to probe
    assert "Traceback" not in done.stderr
    assert ("fetch.parquet: missing" in done.stderr) == ("2>&-" not in closed)


def test_a_file_that_cannot_be_written_has_its_own_name(tmp_path):
    """Not that of the temporary file beside it, which its reader never sees."""
    (tmp_path / "page.html").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "page.html", "text")
    assert caught.value.filename == str(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def _end_of(message: ast.expr) -> ast.expr:
    """The last text or value of a message."""
    while isinstance(message, (ast.BinOp, ast.JoinedStr, ast.FormattedValue)):
        if isinstance(message, ast.BinOp):
            message = message.right
        else:
            message = (
                message.value if isinstance(message, ast.FormattedValue) else message.values[-1]
            )
    return message


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a function of these names in the package, and where it is."""
    for path in sorted(Path(clip4vla.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                yield f"{path.name}:{node.lineno}", node


def texts_in(node: ast.AST) -> list[str]:
    return [str(one.value) for one in ast.walk(node) if isinstance(one, ast.Constant)]


def test_every_message_that_is_written_out_has_a_fix():
    """In its text, or in what ends it: a hint on a name, another error, a text with a name."""
    found = []
    for place, call in calls("UserError", "RetryLater"):
        message = call.args[0]
        if not isinstance(message, (ast.JoinedStr, ast.Constant, ast.BinOp)):
            continue
        end = _end_of(message)
        of_a_hint = isinstance(end, ast.Call) and ast.unparse(end.func) == "did_you_mean"
        has_fix = any("Fix: " in text for text in texts_in(message))
        if not (of_a_hint or isinstance(end, ast.Name) or has_fix):
            found.append(f"{place}: {ast.unparse(message)}")
    assert found == []


def test_no_message_names_documentation_that_a_wheel_lacks(monkeypatch, tmp_path):
    names = ("UserError", "RetryLater", "append", "option", "Option", "Argument", "Typer", "echo")
    named = re.compile(r"docs/\w+\.md")
    assert [place for place, call in calls(*names) if named.search(" ".join(texts_in(call)))] == []
    assert packaged.see("data.md") == " (docs/data.md)"
    (tmp_path / "_workflow").mkdir()
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path)
    assert packaged.see("data.md") == ""
