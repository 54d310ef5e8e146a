"""Decoders in a process of their own: a crash costs one clip."""

import os
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from clip4vla.errors import UserError
from clip4vla.media import probe
from clip4vla.media.isolated import Crashed, Isolated
from clip4vla.media.probe import probe_shard


def behave(what):
    match what:
        case "crash":
            os.abort()
        case "hang":
            time.sleep(60)
        case "raise":
            raise UserError("as it was")
    return what * 2, os.getpid()


def test_a_crash_or_hang_is_one_failed_call():
    with Isolated(behave) as call:
        assert call("a", 30)[0] == "aa"
        child = call("b", 30)[1]
        assert child == call("c", 30)[1] != os.getpid()
        with pytest.raises(Crashed, match="died"):
            call("crash", 30)
        assert call("d", 30)[0] == "dd"
        with pytest.raises(Crashed, match="no answer"):
            call("hang", 0.1)
        with pytest.raises(UserError, match="as it was"):
            call("raise", 30)
        last = call("e", 30)[1]
        assert psutil.pid_exists(last)
    assert not psutil.pid_exists(last) and not psutil.pid_exists(child)


def test_a_child_that_cannot_start_is_no_fault_of_the_file():
    """Else a broken installation would turn every clip into a decode_error."""
    code = (
        "from clip4vla.media.isolated import Isolated\n"
        "from clip4vla.media.probe import probe_file\n"
        "with Isolated(probe_file) as call: call('x', 5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True
    )  # a child cannot import a main program that came from a pipe
    assert done.returncode == 1 and "RuntimeError: the process for decoding cannot" in done.stderr


def test_a_file_that_kills_the_decoder_costs_no_other_clip(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setattr(probe, "probe_file", fragile)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"x")
    rows = pd.DataFrame(
        {"clip_id": list("abc"), "fetch": "ok", "path": [str(clip), str(bad), str(clip)]}
    )
    table = probe_shard(rows)
    assert list(table.video) == ["ok", "decode_error", "ok"]
    assert list(table.audio) == ["ok", "decode_error", "ok"]
    assert "bad.mp4: the process died" in capsys.readouterr().err


def fragile(path, real=probe.probe_file):
    if path.endswith("bad.mp4"):
        os.abort()
    return real(path)
