"""Progress as a log and as a terminal show it."""

import io
import sys

import pytest

from clip4vla.common import progress
from clip4vla.common.progress import last_progress, time_left, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    monkeypatch.setattr(progress, "BAR_SECONDS", -1.0)


def test_a_log_gets_a_line_with_the_status(impatient, capsys):
    assert list(track([1, 2], "epoch 1/5", status=lambda: "3 samples/s")) == [1, 2]
    assert "epoch 1/5: 1/2, < 1 min left, 3 samples/s\n" in capsys.readouterr().err
    list(track(iter([1]), "embed"))
    assert "embed: 0/?\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12, "< 1 min"), (720, "12 min"), (7200, "2.0 h"), (432000, "5.0 days")],
)
def test_the_time_left_has_a_fitting_unit(seconds, text):
    assert time_left(seconds) == f"{text} left"


def test_the_time_left_counts_later_epochs(impatient, monkeypatch, capsys):
    clock = iter(range(0, 600, 60))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    list(track([1, 2], "epoch 1/3", later=4))  # a step takes two minutes
    assert "epoch 1/3: 1/2, 10 min left\n" in capsys.readouterr().err


def test_the_last_line_of_a_log_is_read_back(impatient, tmp_path, capsys):
    list(track([1, 2], "cache 3", status=lambda: "loss 1/2"))
    log = tmp_path / "a.log"
    log.write_text(capsys.readouterr().err + "done: 2 clips\n")
    assert last_progress(log) == "cache 3: 1/2, < 1 min left"
    log.write_bytes(b"\xff" * 200_000)
    assert last_progress(log) is None and last_progress(tmp_path / "b.log") is None


def test_a_terminal_gets_a_bar_and_the_status_below_it(impatient, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    status = "812 samples/s, 3% waiting for data, loss [1.5] " + "a_term 0.1 " * 8
    assert list(track([1, 2], "epoch 1/5", status=lambda: status)) == [1, 2]
    shown = screen.getvalue()
    assert "epoch 1/5" in shown and "2/2" in shown
    assert "812 samples/s" in shown and "loss [1.5]" in shown and "…" not in shown
