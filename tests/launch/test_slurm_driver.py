"""The driver of a Slurm job, with stand-ins for Slurm: what is submitted, and how often."""

import pytest

from clip4vla.errors import UserError
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
    assert drive([State("NODE_FAIL"), State("COMPLETED")], [None, None]) == 2


def test_a_job_that_slurm_forgot_for_a_while_is_not_submitted_twice(drive):
    assert drive([State("UNKNOWN to Slurm"), State("COMPLETED")], [None, "7"]) == 1


def test_a_job_that_was_cancelled_is_not_tried_again(drive):
    with pytest.raises(UserError, match="ended as CANCELLED"):
        drive([State("CANCELLED")], [None])


def test_a_training_that_was_refused_is_not_tried_again(drive, tmp_path):
    """Whatever the exit code: it may be that of the ranks that Slurm ended then."""
    job = tmp_path / "slurm" / "7"
    job.mkdir(parents=True)
    (job / "refused").write_text("1")
    (job / "7_0_log.err").write_text("slurmstepd: killed\n")
    (job / "7_1_log.err").write_text("clip4vla: no such data\n")
    with pytest.raises(UserError, match="the training was refused.*\n.*\n +clip4vla: no such data"):
        drive([State("FAILED", exit_code=137)], [None])


def test_jobs_without_progress_come_to_an_end(drive):
    with pytest.raises(UserError, match="3 jobs in a row made no progress"):
        drive([State("TIMEOUT")] * 3, [None] * 3)
