"""The command `clip4vla app`: its address, its errors, its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from clip4vla.cli.main import main
from clip4vla.common import extras

APP = [sys.executable, "-m", "clip4vla", "app"]


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["app", *map(str, arguments)])
    return ended.value.code


@pytest.mark.parametrize("host, warned", [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_prints_its_address_and_ends_with_ctrl_c(original, tmp_path, host, warned):
    process = subprocess.Popen(
        [*APP, str(original[1]), "--port", "0", "--host", host, "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        lines = []
        while not (found := re.search(r"http://[\d.]+:(\d+)/", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert ("there is no password" in "".join(lines)) == warned
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=60) as page:
            assert b"Search your clips" in page.read()
        assert list(tmp_path.iterdir()) != []
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT, 130)
        assert "Traceback" not in process.stderr.read()
        assert list(tmp_path.iterdir()) == []  # neither uploads nor converted windows
    finally:
        process.kill()


def test_a_port_in_use_is_one_sentence(original, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(original[1], "--port", port, "--device", "cpu") == 78
    assert f"--port {port}: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a b"])
def test_a_host_that_cannot_be_served_is_one_sentence(original, capsys, host):
    assert run(original[1], "--host", host, "--port", "0", "--device", "cpu") == 78
    assert f"--host {host} " in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_no_index_is_one_sentence(tmp_path, capsys):
    assert run(tmp_path, "--port", "0", "--device", "cpu") == 78
    assert "not an index" in capsys.readouterr().err.splitlines()[-1]


def test_without_the_extra_the_command_says_what_to_install(original, capsys, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert run(original[1]) == 78
    assert capsys.readouterr().err.splitlines()[-1] == (
        "clip4vla: clip4vla app: fastapi, starlette, uvicorn not installed. "
        "Fix: pip install 'clip4vla[app]'"
    )
