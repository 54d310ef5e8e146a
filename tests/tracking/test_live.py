"""Live runs on a real server: updated while they run, through outages and resumes."""

import dataclasses
import socket

import pytest
from fake_training import Training, expected, steps_of, until
from live_checks import check_complete, run_at_once, start

from clip4vla.tracking import live_worker, sync
from clip4vla.tracking.context import read_run_id
from clip4vla.tracking.live import live


def test_killed_stopped_resumed_and_finished(server, tmp_path):
    """kill -9 behind a checkpoint, then a stop in good order, then to the end: one run."""
    client = server.client()
    killed = start(tmp_path, server.uri, "0123456789ab", "killed")
    assert killed.wait() == -9
    training = Training(tmp_path, server.uri)
    run_id = read_run_id(training.state)

    def status():
        return client.get_run(run_id).info.status

    until(lambda: status() == "KILLED", "the orphaned child says so")
    assert steps_of(client, run_id) == expected(5)  # what may be taken back was not sent
    length = len("".join(training.curve.read_text().splitlines(keepends=True)[:5]))

    training.cut(length)
    try:
        with training.live() as tracker:
            tracker.saved(length)
            until(lambda: status() == "RUNNING", "it goes on")
            tracker.saved(training.rows(6, 8))
            training.rows(9, 9)
            until(lambda: len(steps_of(client, run_id)) == 8, "rows of a checkpoint arrive")
            raise RuntimeError("any error of the stage")
    except RuntimeError:
        assert status() == "FAILED"
    training.cut(training.rows(1, 0) - len(training.curve.read_text().splitlines(True)[-1]))
    with training.live() as tracker:
        tracker.saved(training.curve.stat().st_size)
        tracker.saved(training.rows(9, 12))
        until(
            lambda: "system/cpu_utilization_percentage" in client.get_run(run_id).data.metrics, ""
        )
        tracker.finished(training.record())
    run = check_complete(client, training)
    assert run.info.run_id == run_id
    assert run.data.tags["hosts"] == "node0 node1 node2"
    assert {"progress/step", "progress/loss", "system/run_memory_megabytes"} <= set(
        run.data.metrics
    )

    report = sync([training.out / "record.json"], training.target, {training.key: training.context})
    assert (report.skipped, report.runs[training.key]) == (1, run_id)
    check_complete(client, training)


def test_after_a_lost_checkpoint_the_run_is_replaced(server, tmp_path):
    """The newest checkpoint was damaged: rows that were sent are trained again, in a new run."""
    client, training = server.client(), Training(tmp_path, server.uri)
    early = training.rows(1, 3)
    worker = training.worker(0)
    worker.inbox.saved = training.rows(4, 8)
    assert worker.step("lost")
    before = read_run_id(training.state)
    assert steps_of(client, before) == expected(8)
    training.cut(early)
    worker = training.worker(early)
    worker.inbox.saved = training.rows(4, 12)
    worker.inbox.record = training.record()
    assert worker.step("finished")
    assert check_complete(client, training).info.run_id != before


def test_a_contradicting_run_is_replaced(server, tmp_path):
    """A point that the curve does not have, as another attempt's: the whole run is made anew."""
    client, training = server.client(), Training(tmp_path, server.uri)
    assert training.worker(training.rows(1, 12)).step("stopped")
    before = read_run_id(training.state)
    assert client.get_run(before).info.status == "SCHEDULED"
    client.log_metric(before, "train/loss", 3.0, step=4)
    report = sync([training.record()], training.target, {training.key: training.context})
    assert (report.added, report.completed, report.replaced) == (0, 0, 1)
    assert check_complete(client, training).info.run_id != before


def test_points_that_a_killed_worker_sent_are_not_sent_twice(server, tmp_path, monkeypatch):
    """The worker died before it noted what it had sent, and before it noted the run's id."""
    client, training = server.client(), Training(tmp_path, server.uri)
    worker = training.worker(0)
    assert worker.step(None)
    (training.state / "mlflow_run_id").unlink()  # killed before it was written
    worker = training.worker(training.rows(1, 6))
    note_sent = worker._note_sent

    def interrupt(run, begun=None, done=None):
        note_sent(run, begun=begun)
        if done is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worker, "_note_sent", interrupt)
        worker.step(None)
    worker = training.worker(training.rows(7, 12))
    worker.inbox.record = training.record()
    assert worker.step("finished")
    check_complete(client, training)


def test_an_outage_loses_nothing(server, tmp_path, capsys):
    """The server is down at the start, comes, dies in the middle, and comes back."""
    training = Training(tmp_path, server.uri)
    server.kill()
    worker = training.worker(training.rows(1, 3))
    assert not worker.step(None)
    server.start()
    assert worker.step(None)
    server.kill()
    worker.inbox.saved = training.rows(4, 9)
    assert not worker.step(None) and not worker.step(None)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "no MLflow server answers" in warnings[0]
    server.start()
    client, run_id = server.client(), read_run_id(training.state)
    assert steps_of(client, run_id) == expected(3)
    assert worker.step(None)
    assert steps_of(client, run_id) == expected(9)
    training.rows(10, 12)  # and here the job dies; the rest is for the replay
    context = {training.key: training.context}
    assert sync([training.record()], training.target, context).completed == 1
    assert check_complete(client, training).info.run_id == run_id
    assert sync([training.out / "record.json"], training.target, context).skipped == 1


@pytest.mark.slow
def test_a_server_that_starts_dies_and_restarts(own_server, tmp_path, capfd):
    training = Training(tmp_path, own_server.uri)
    with training.live() as tracker:
        tracker.saved(training.rows(1, 3))
        own_server.start()
        client = own_server.client()
        run_id = until(lambda: read_run_id(training.state), "found the server")
        until(lambda: len(steps_of(client, run_id)) == 3, "caught up")
        own_server.kill()
        tracker.saved(training.rows(4, 9))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "no MLflow server answers" in warnings[0]
    own_server.start()
    training.attempt += 1
    with training.live() as tracker:
        tracker.saved(training.curve.stat().st_size)
        until(lambda: len(steps_of(client, run_id)) == 9, "caught up again")
        own_server.kill()
        tracker.saved(training.rows(10, 12))
        tracker.finished(training.record())
    own_server.start()
    context = {training.key: training.context}
    assert sync([training.out / "record.json"], training.target, context).completed == 1
    assert check_complete(client, training).info.run_id == run_id
    assert sync([training.out / "record.json"], training.target, context).skipped == 1


def test_a_server_that_hangs_does_not_delay_the_stage(tmp_path):
    """It takes the connection and says nothing: the child is ended, the stage goes on."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        training = Training(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        spec = dataclasses.replace(training.spec(), patience=(1.0, 1.0))
        with live(spec) as tracker:
            for _ in range(20000):  # more than a pipe holds
                tracker.saved(1)
            tracker.finished(training.out / "record.json")
        assert tracker.child.returncode is not None


@pytest.mark.parametrize(("failures", "steps"), [(0, 1), (2, 3), (9, 3)])
def test_the_end_is_tried_again(tmp_path, monkeypatch, failures, steps):
    worker, left = Training(tmp_path, "http://127.0.0.1:9").worker(0), [False] * failures
    ends = []
    monkeypatch.setattr(live_worker, "PAUSE", (0.01, 0.01))
    monkeypatch.setattr(worker, "step", lambda end: ends.append(end) or not left or left.pop())
    worker.inbox.end = "finished"
    worker.work()
    assert ends == ["finished"] * steps


@pytest.mark.slow
def test_24_jobs_that_finish_at_once(server, tmp_path):
    run_at_once(server, tmp_path, 24)
