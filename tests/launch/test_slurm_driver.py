"""The driver of a Slurm job, with stand-ins for Slurm: its submissions."""

import pytest

from clip4vla.common.errors import UserError
from clip4vla.launch import slurm
from clip4vla.launch.queue import State
from clip4vla.launch.request import Request


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Run the driver on given ends of jobs and answers to "does one live?"; count submissions."""

    def run(ends, living):
        monkeypatch.setattr(slurm, "PAUSE_SECONDS", (0.0,))
        submitted, ends, living = [], iter(ends), iter(living)
        monkeypatch.setattr(slurm, "living_job", lambda name: next(living))
        monkeypatch.setattr(slurm, "_submit", lambda *_: submitted.append("7") or "7")
        monkeypatch.setattr(slurm, "_wait", lambda job_id: next(ends))
        slurm.run_on_slurm("x", ["train"], Request(), tmp_path, {})
        return len(submitted)

    return run


def test_a_job_that_was_lost_is_submitted_again(drive):
    assert drive([State("NODE_FAIL"), State("COMPLETED")], [None, None, None]) == 2


def test_a_job_that_slurm_did_not_know_for_a_while_is_not_submitted_twice(drive):
    assert drive([State("UNKNOWN to Slurm"), State("COMPLETED")], [None, "7"]) == 1


def test_a_job_that_was_cancelled_is_not_tried_again(drive):
    with pytest.raises(UserError, match="ended as CANCELLED"):
        drive([State("CANCELLED")], [None, None])


def test_a_training_that_refused_to_run_is_not_tried_again(drive, tmp_path):
    """Whatever the exit code: it may be that of the ranks that Slurm ended then."""
    job = tmp_path / "slurm" / "7"
    job.mkdir(parents=True)
    (job / "refused").write_text("1")
    (job / "7_0_log.err").write_text("slurmstepd: killed\n")
    (job / "7_1_log.err").write_text("clip4vla: no such data\n")
    with pytest.raises(
        UserError, match="the training refused to run.*\n.*\n +clip4vla: no such data"
    ):
        drive([State("FAILED", exit_code=137)], [None, None])


def test_jobs_without_progress_come_to_an_end(drive):
    with pytest.raises(UserError, match="3 jobs in a row made no progress"):
        drive([State("TIMEOUT")] * 3, [None] * 6)


def test_a_job_that_still_exists_is_not_stalled(drive):
    ends = [State("UNKNOWN to Slurm")] * 4 + [State("COMPLETED")]
    assert drive(ends, [None] + ["7"] * 4) == 1


NO_ANSWER = UserError("squeue: Unable to contact slurm controller. Fix: run this elsewhere")


@pytest.fixture
def clock(monkeypatch):
    """Time passes by sleeping alone."""
    now = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def answering(answers):
    """Slurm's answers, one after another; the last one for ever."""
    left = list(answers)

    def ask(_):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, UserError):
            raise answer
        return answer

    return ask


def test_a_controller_that_is_down_for_long_ends_no_job(monkeypatch, clock, capsys):
    done = State("COMPLETED")
    states = [State("RUNNING"), None, *[NO_ANSWER] * 50, None, *[NO_ANSWER] * 50, done, done]
    monkeypatch.setattr(slurm, "state_of", answering(states))
    assert slurm._wait("7") == done
    printed = capsys.readouterr().err
    assert (
        printed.count("no answer, asking again: squeue: Unable to contact slurm controller\n") == 2
    )


def test_a_job_that_slurm_does_not_know_is_lost_after_a_while(monkeypatch, clock):
    monkeypatch.setattr(slurm, "state_of", answering([None]))
    assert slurm._wait("7").name == "UNKNOWN to Slurm"
    assert clock[0] > slurm.UNKNOWN_SECONDS


def test_an_outage_behind_the_end_of_a_job_is_waited_for(drive, monkeypatch, clock):
    def run_on(living):
        ask = answering(living)
        return drive([State("NODE_FAIL"), State("COMPLETED")], iter(lambda: ask(""), "never"))

    assert run_on([None, NO_ANSWER, NO_ANSWER, None]) == 2
