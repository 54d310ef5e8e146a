"""Slurm's answers, given by small scripts that stand in for its commands."""

import pytest

from clip4vla.common.errors import UserError
from clip4vla.launch import queue


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Define a command's answer: `slurm("squeue", "RUNNING|node1")`; None: it fails."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def define(command: str, answer: str | None) -> None:
        text = "exit 1" if answer is None else f"cat <<EOF\n{answer}\nEOF"
        (tmp_path / command).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / command).chmod(0o755)

    for command in ("squeue", "sacct", "scontrol"):
        define(command, None if command != "squeue" else "")
    return define


def test_squeue_has_the_state_of_a_living_job(slurm):
    slurm("squeue", "PENDING|(BeginTime)")
    slurm("sacct", "NODE_FAIL|0:0")  # what sacct says of a job that Slurm has requeued
    state = queue.state_of("7")
    assert (state.name, state.detail, state.over) == ("PENDING", "(BeginTime)", False)


@pytest.mark.parametrize(
    "answer, name, code, over",
    [
        ("COMPLETED|0:0", "COMPLETED", 0, True),
        ("CANCELLED by 1000|0:15", "CANCELLED", 0, True),
        ("FAILED|75:0", "FAILED", 75, True),
        ("REQUEUED|0:0", "REQUEUED", 0, False),
    ],
)
def test_sacct_has_the_state_of_a_job_that_left_the_queue(slurm, answer, name, code, over):
    slurm("squeue", "")
    slurm("sacct", answer)
    state = queue.state_of("7")
    assert (state.name, state.exit_code, state.over) == (name, code, over)


def test_without_accounting_scontrol_is_asked(slurm):
    slurm("scontrol", "JobId=7 JobName=x JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0")
    state = queue.state_of("7")
    assert (state.name, state.exit_code) == ("FAILED", 2)


def test_an_unknown_job_has_no_state(slurm):
    assert queue.state_of("7") is None


def test_a_busy_controller_does_not_end_a_job(slurm):
    slurm("squeue", None)
    slurm("sacct", "NODE_FAIL|0:0")
    with pytest.raises(UserError, match="squeue: "):
        queue.state_of("7")


def test_jobs_are_found_by_name(slurm):
    slurm("squeue", "12\n9")
    assert queue.living_job("clip4vla-x") == "9"
    slurm("squeue", "")
    assert queue.living_job("clip4vla-x") is None


NOISE = "slurm_load_jobs error: Unable to contact slurm controller"


@pytest.mark.parametrize("answer", [NOISE, f"12\n{NOISE}", "<html>Login</html>", "JOBID\n12"])
def test_text_in_place_of_jobs_is_an_error(slurm, answer):
    """Were it taken for none, a second job would be submitted beside a living one."""
    slurm("squeue", answer)
    with pytest.raises(
        UserError, match="^squeue: printed '.*' in place of jobs. Fix: run it"
    ) as error:
        queue.living_job("clip4vla-x")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("answer", [NOISE, "Welcome!\nRUNNING|node1"])
def test_text_in_place_of_a_state_is_an_error(slurm, answer):
    slurm("squeue", answer)
    slurm("sacct", "COMPLETED|0:0")
    with pytest.raises(UserError, match="^squeue: printed"):
        queue.state_of("7")


@pytest.mark.parametrize(
    "answer", ["Slurm accounting storage is disabled", "\x1b[31mno\x1b[0m|x", ""]
)
def test_text_in_place_of_an_account_is_ignored(slurm, answer):
    slurm("sacct", answer)
    assert queue.state_of("7") is None
    slurm("scontrol", "JobId=7 JobState=FAILED ExitCode=2:0")
    assert queue.state_of("7").name == "FAILED"
    slurm("sacct", f"{answer}\nTIMEOUT|0:0")
    assert queue.state_of("7").name == "TIMEOUT"


@pytest.mark.parametrize("answer", ["JobState=FAILED ExitCode=?", "JobState=FAILED ExitCode=:"])
def test_an_invalid_exit_code_is_zero(slurm, answer):
    slurm("scontrol", answer)
    assert (queue.state_of("7").name, queue.state_of("7").exit_code) == ("FAILED", 0)


def test_filters_that_the_user_has_set_for_squeue_hide_no_job(slurm, monkeypatch):
    slurm("squeue", "${SQUEUE_STATES:-9}")
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert queue.living_job("clip4vla-x") == "9"


@pytest.mark.parametrize(("fails", "done"), [(0, True), (2, True), (3, False)])
def test_a_requeue_is_tried_again(slurm, tmp_path, monkeypatch, fails, done):
    monkeypatch.setattr(queue, "PAUSE_SECONDS", 0.0)
    script = tmp_path / "scontrol"
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/n\n[ $(wc -l < {tmp_path}/n) -gt {fails} ]\n")
    assert queue.requeue("7") is done


def test_a_command_that_hangs_or_is_missing_does_not_requeue(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(queue, "SECONDS", 0.05)
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexec sleep 60\n")
    assert queue.requeue("7") is False
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert queue.requeue("7") is False


def test_a_machine_without_slurm_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue: .*--launcher local"):
        queue.living_job("clip4vla-x")


@pytest.mark.parametrize(
    "answer, seconds",
    [("1-02:03:04", 93784), ("02:03:04", 7384), ("03:04", 184), ("UNLIMITED", None), ("", None)],
)
def test_seconds_left(slurm, monkeypatch, answer, seconds):
    slurm("squeue", answer)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert queue.seconds_left() == seconds
    monkeypatch.delenv("SLURM_JOB_ID")
    assert queue.seconds_left() is None
