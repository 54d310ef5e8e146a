"""Decoders in a process of their own: a crash costs one clip."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from clip4vla.common.errors import UserError
from clip4vla.media import probe
from clip4vla.media.isolated import LOOK_SECONDS, Crashed, Isolated, isolated_each, run_bounded
from clip4vla.media.probe import probe_shard

ALLOCATED = 512 << 20  # bytes; machines exist that take a minute to hand out a gigabyte


def behave(what):
    match what:
        case "crash":
            os.abort()
        case "hang":
            time.sleep(60)
        case "memory":
            held = b"x" * ALLOCATED
            time.sleep(60)
            return held
        case "slow":
            time.sleep(3 * LOOK_SECONDS)
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


def test_a_child_that_cannot_start_is_not_an_error_of_the_file(monkeypatch):
    """Else a machine without room for a process would turn every clip into a decode_error."""

    def refuse(*_):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with Isolated(behave) as call, pytest.raises(BlockingIOError):
        call("a", 30)


def test_a_child_takes_no_more_memory_than_it_may():
    with Isolated(behave, memory=ALLOCATED // 4) as call:
        assert call("a", 30)[0] == "aa"
        with pytest.raises(Crashed, match="more than 128 MB"):
            call("memory", 600)
        assert call("b", 30)[0] == "bb"


def test_memory_of_the_parent_does_not_count():
    """A model that the parent holds must not make every file a crash."""
    held = bytearray(os.urandom(1 << 20)) * 128
    with Isolated(behave, memory=64 << 20) as call:
        assert call("slow", 30)[0] == "slowslow"  # it is looked at meanwhile
        with pytest.raises(Crashed, match="more than 64 MB"):
            call("memory", 600)
    assert len(held) == 128 << 20


def test_a_child_holds_no_lock_of_its_parent(tmp_path):
    """The next attempt of a job that was killed must not wait for what it left behind."""
    path = tmp_path / "lock"
    with Isolated(behave) as call:
        with open(path, "w") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)
            call("a", 30)
        with open(path, "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "work",
    [
        "Isolated(lambda _: print(os.getpid(), flush=True))(0, 60); time.sleep(60)",
        "Isolated(lambda _: (print(os.getpid(), flush=True), time.sleep(60)))(0, 60)",
        "run_bounded(['sh', '-c', 'echo $$; exec sleep 60'], 60)",
    ],
    ids=["idle", "decoder", "ffmpeg"],
)
def test_a_child_ends_with_a_parent_that_was_killed(work, how):
    code = f"import os, time; from clip4vla.media.isolated import *\n{work}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(how)
        assert parent.wait() == -how
        with contextlib.suppress(psutil.TimeoutExpired):  # a zombie, where nobody waits for it
            child.wait(30)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def many(what):
    for number in range(3):
        if number == 1:
            behave(what)
        yield f"{what}{number}"


def test_items_of_many_arguments_in_parallel():
    """Each in its own order; a crash, a hang or an exception ends one argument's items."""
    arguments = ["a", "crash", "b", "hang", "raise", "c"]
    found = {index: [] for index in range(len(arguments))}
    for index, item in isolated_each(
        many, arguments, lambda what: 0.5 if what == "hang" else 30, processes=2
    ):
        found[index].append(item)
    assert [found.pop(index) for index in (0, 2, 5)] == [
        [*(f"{x}{n}" for n in range(3)), None] for x in "abc"
    ]
    assert all(items[2:] == [None] for items in found.values())
    assert [found[index][0] for index in (1, 3, 4)] == ["crash0", "hang0", "raise0"]
    kinds = [type(found[index][1]) for index in (1, 3, 4)]
    assert kinds == [Crashed, Crashed, UserError]
    assert "died" in str(found[1][1]) and "no answer" in str(found[3][1])


def test_a_command_is_bounded_in_time_and_memory():
    python = [sys.executable, "-c"]
    assert run_bounded([*python, "raise SystemExit(3)"], 60) == 3
    with pytest.raises(Crashed, match="no answer"):
        run_bounded(["sleep", "60"], 0.2)
    greedy = "import time; held = b'x' * (1 << 29); time.sleep(60)"
    with pytest.raises(Crashed, match="more than 256 MB"):
        run_bounded([*python, greedy], 60, memory=256 << 20)


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
    assert list(table.left_out) == ["", "everything: the process died", ""]
    assert "bad.mp4: not used: everything: the process died" in capsys.readouterr().err


def fragile(path, real=probe.probe_file):
    if path.endswith("bad.mp4"):
        os.abort()
    return real(path)
