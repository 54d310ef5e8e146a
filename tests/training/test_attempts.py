"""Attempts: what a killed one cost, what all of them did, and when there is no use in another."""

import json
import os
import signal

import pytest
import torch

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.training import attempts as module
from clip4vla.training.attempts import MAX_STALLED, NotFinite, attempts_of, cost_of, recorded
from clip4vla.training.meter import Meter, Totals
from clip4vla.training.ranks import Ranks
from clip4vla.training.stop import Stop

CPU = torch.device("cpu")


def attempt(folder, error=None, resumed=0, saved=0, ranks=None):
    """One attempt that began at step `resumed`, saved step `saved` and ended by an error."""
    with recorded(folder, Stop(), ranks or Ranks(), CPU) as (progress, meter):
        progress.step = saved
        meter.resumed, meter.saved = resumed, saved
        meter.total.add(samples=8, seconds=2.0, waiting=0.5)
        if error:
            raise error


def kill(folder):
    """An attempt of which nothing but its sign of life is left."""
    child = os.fork()
    if not child:
        with recorded(folder, Stop(), Ranks(), CPU):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def ends(folder):
    return [row["end"] for row in attempts_of(folder)]


def test_every_attempt_has_one_line_however_it_ended(tmp_path):
    kill(tmp_path)
    assert ends(tmp_path) == ["killed"]  # before anybody else has come
    for error in (RetryLater("time"), NotFinite("nan"), UserError("no"), MemoryError("oom")):
        with pytest.raises(type(error)):
            attempt(tmp_path, error, saved=5)
    attempt(tmp_path)
    expected = ["killed", "stopped", "not finite", "refused", "error", "finished"]
    assert ends(tmp_path) == expected
    assert not (tmp_path / "attempt.json").exists()
    lines = (tmp_path / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["end"] for line in lines] == expected


def test_a_line_that_was_written_before_the_kill_is_not_written_twice(tmp_path):
    attempt(tmp_path)
    (row,) = attempts_of(tmp_path)
    (tmp_path / "attempt.json").write_text(json.dumps(row | {"end": "under way"}))
    attempt(tmp_path)
    assert ends(tmp_path) == ["finished", "finished"]


def test_an_incomplete_line_is_skipped(tmp_path):
    attempt(tmp_path)
    with open(tmp_path / "attempts.jsonl", "a") as stream:
        stream.write('{"id": "x", "en')
    attempt(tmp_path)
    assert ends(tmp_path) == ["finished", "finished"]


def test_the_heartbeat_follows_what_the_attempt_does(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    with recorded(tmp_path, Stop(), Ranks(), CPU) as (progress, _):
        progress.step = 7
        while json.loads((tmp_path / "attempt.json").read_text())["step"] != 7:
            pass


def test_costs_add_up_over_attempts_and_ranks(tmp_path):
    rows = [
        {"id": "a", "end": "killed", "seconds": 1800, "ranks": 8, "gpus": 8, "device": "V100"},
        {"id": "b", "end": "error", "seconds": 3600, "ranks": 2, "gpus": 0, "device": "CPU"},
        {"id": "c", "end": "given up", "seconds": 9999, "ranks": 8, "gpus": 8, "device": "V100"},
        {"id": "d", "end": "finished", "seconds": 3600, "ranks": 4, "gpus": 4, "device": "V100"},
    ]
    work = {"samples": 100, "training_seconds": 50.0, "waiting_seconds": 5.0, "started_ms": 0}
    text = "".join(json.dumps(row | work | {"peak_memory_bytes": 2**30}) + "\n" for row in rows)
    (tmp_path / "attempts.jsonl").write_text(text)
    assert cost_of(tmp_path) == {
        "attempts": 3,
        "killed": 1,
        "hours": 2.5,
        "gpu_hours": 8.0,
        "hardware": {"V100": 8.0, "CPU": 2.0},
        "samples": 300,
        "samples_per_second": 2.0,
        "data_wait_share": 0.1,
        "peak_memory_gib": 1.0,
    }
    assert cost_of(tmp_path / "nothing")["attempts"] == 0


def fail(folder, **given):
    with pytest.raises(RuntimeError, match="power cut"):
        attempt(folder, RuntimeError("power cut"), **given)


def test_three_attempts_that_save_nothing_are_enough_and_then_there_are_three_more(tmp_path):
    fail(tmp_path, resumed=0, saved=40)  # it came somewhere
    for _ in range(2):
        for _ in range(MAX_STALLED):
            fail(tmp_path, resumed=40, saved=40)
        with pytest.raises(UserError, match="3 attempts in a row saved no step after 40") as told:
            attempt(tmp_path)
        assert "at the end of the log" in str(told.value) and "\n" not in str(told.value)
    attempt(tmp_path, resumed=40, saved=80)
    assert ends(tmp_path).count("given up") == 2


@pytest.mark.parametrize("between", ["progress", "refused", "killed early"])
def test_attempts_that_do_not_count_as_stalled(tmp_path, between):
    fail(tmp_path)
    fail(tmp_path)
    if between == "progress":
        fail(tmp_path, saved=1)
    if between == "refused":  # a mistake that was mended before it trained
        with pytest.raises(UserError, match="typo"):
            attempt(tmp_path, UserError("typo"))
    if between == "killed early":  # whoever kills it at once may run it again at once
        kill(tmp_path)
    attempt(tmp_path)
    assert ends(tmp_path)[-1] == "finished"


def test_slow_attempts_that_were_killed_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.0)
    for _ in range(MAX_STALLED):
        kill(tmp_path)
    with pytest.raises(UserError, match="killed, killed, killed.*out of memory"):
        attempt(tmp_path)


def test_the_meter_separates_waiting_from_training(monkeypatch):
    clock = iter([0.0, 3.0, 4.0, 10.0, 10.0, 12.0, 99.0])
    monkeypatch.setattr("clip4vla.training.meter.time.perf_counter", lambda: next(clock))
    meter = Meter()
    for _ in meter.reading("ab"):
        meter.step(8)  # 3 s of waiting and 1 s of work, then none and 2 s
    assert meter.total == Totals(samples=16, seconds=6.0, waiting=3.0)
    taken = meter.take()
    assert taken["speed/samples_per_second"] == round(16 / 6, 3)
    assert taken["speed/data_wait_share"] == 0.5
    assert taken["speed/peak_memory_gib"] > 0.01
    assert meter.take()["speed/samples_per_second"] == 0.0
    meter.ranks = [(0.5, 1), (0.9, 1)]
    assert "2.67 samples/s, 50% waiting for data (rank 1: 90%)" in meter.report(meter.total)
