"""Several ranks on this machine: their variables, how they end, and signals."""

import signal
import sys
import threading

import pytest

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.launch import local


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Let `run_here` start a script in place of `clip4vla`; give the folder of its notes."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}

    def script(text: str):
        path = tmp_path / "rank.py"
        path.write_text(f"import os, sys, time, signal, pathlib\nrank = os.environ['RANK']\n{text}")
        monkeypatch.setattr(local, "COMMAND", [sys.executable, str(path)])
        return tmp_path

    yield script
    for number, handler in before.items():
        signal.signal(number, handler)


NOTE = "pathlib.Path(sys.argv[1], rank).write_text(os.environ['WORLD_SIZE'] + os.environ['LOCAL_RANK'])\n"


def test_every_rank_runs_once(ranks):
    folder = ranks(NOTE)
    local.run_here([str(folder)], 3)
    assert {name: (folder / name).read_text() for name in "012"} == {
        "0": "30",
        "1": "31",
        "2": "32",
    }


@pytest.mark.parametrize(
    "codes, error", [((75, 75), RetryLater), ((78, 75), UserError), ((0, 1), RuntimeError)]
)
def test_the_worst_exit_code_counts(ranks, codes, error):
    folder = ranks(f"sys.exit({codes}[int(rank)])")
    with pytest.raises(error):
        local.run_here([str(folder)], 2)


def test_ranks_that_wait_for_a_failed_one_are_ended(ranks, monkeypatch):
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.5)
    folder = ranks("sys.exit(1) if rank == '0' else time.sleep(600)")
    with pytest.raises(RuntimeError, match=r"\[1, -9\]"):
        local.run_here([str(folder)], 2)


def test_signals_reach_every_rank(ranks):
    folder = ranks(
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1], rank).touch(), sys.exit(75)))\n"
        "pathlib.Path(sys.argv[1], 'ready' + rank).touch()\ntime.sleep(600)"
    )

    def tell():
        while not all((folder / f"ready{rank}").exists() for rank in "01"):
            pass
        signal.raise_signal(signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    with pytest.raises(RetryLater):
        local.run_here([str(folder)], 2)
    teller.join()
    assert (folder / "0").exists() and (folder / "1").exists()
