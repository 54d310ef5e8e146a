"""Progress as a log and as a terminal show it."""

import io
import sys

import pytest

from clip4vla.common import progress
from clip4vla.common.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    monkeypatch.setattr(progress, "BAR_SECONDS", -1.0)


def test_a_log_gets_a_line_with_the_status(impatient, capsys):
    assert list(track([1, 2], "epoch 1/5", status=lambda: "3 samples/s")) == [1, 2]
    assert "epoch 1/5: 1/2, 3 samples/s\n" in capsys.readouterr().err
    list(track(iter([1]), "embed"))
    assert "embed: 0/?\n" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_the_status_below_it(impatient, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    status = "812 samples/s, 3% waiting for data, loss [1.5] " + "a_term 0.1 " * 8
    assert list(track([1, 2], "epoch 1/5", status=lambda: status)) == [1, 2]
    shown = screen.getvalue()
    assert "epoch 1/5" in shown and "2/2" in shown
    assert "812 samples/s" in shown and "loss [1.5]" in shown and "…" not in shown
