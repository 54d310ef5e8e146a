"""Live runs on a real server: fed while they run, through outages and resumes."""

import dataclasses
import socket

import pytest
from fake_training import Training, expected, steps_of, until
from live_checks import check_complete, run_at_once, start

from clip4vla.tracking import sync
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
        with training.live() as sink:
            sink.saved(length)
            until(lambda: status() == "RUNNING", "it goes on")
            sink.saved(training.rows(6, 8))
            training.rows(9, 9)
            until(lambda: len(steps_of(client, run_id)) == 8, "rows of a checkpoint arrive")
            raise RuntimeError("any error of the stage")
    except RuntimeError:
        assert status() == "FAILED"
    training.cut(training.rows(1, 0) - len(training.curve.read_text().splitlines(True)[-1]))
    with training.live() as sink:
        sink.saved(training.curve.stat().st_size)
        sink.saved(training.rows(9, 12))
        until(
            lambda: "system/cpu_utilization_percentage" in client.get_run(run_id).data.metrics, ""
        )
        sink.finished(training.record())
    run = check_complete(client, training)
    assert run.info.run_id == run_id
    assert run.data.tags["hosts"] == "node0 node1 node2"
    assert {"progress/step", "progress/loss", "system/run_memory_megabytes"} <= set(
        run.data.metrics
    )

    report = sync([training.out / "record.json"], training.target, {training.key: training.context})
    assert (report.skipped, report.runs[training.key]) == (1, run_id)
    check_complete(client, training)


def test_a_lost_checkpoint_takes_back_what_was_sent(server, tmp_path):
    """The newest checkpoint was damaged: rows that were sent are trained again, in a new run."""
    client, training = server.client(), Training(tmp_path, server.uri)
    early = training.rows(1, 3)
    feeder = training.feeder(0)
    feeder.inbox.saved = training.rows(4, 8)
    assert feeder.step("lost")
    before = read_run_id(training.state)
    assert steps_of(client, before) == expected(8)
    training.cut(early)
    feeder = training.feeder(early)
    feeder.inbox.saved = training.rows(4, 12)
    feeder.inbox.record = training.record()
    assert feeder.step("finished")
    assert check_complete(client, training).info.run_id != before


def test_a_contradicting_run_is_replaced(server, tmp_path):
    """A point that the curve does not have, as another attempt's: the whole run is made anew."""
    client, training = server.client(), Training(tmp_path, server.uri)
    assert training.feeder(training.rows(1, 12)).step("stopped")
    before = read_run_id(training.state)
    assert client.get_run(before).info.status == "SCHEDULED"
    client.log_metric(before, "train/loss", 3.0, step=4)
    report = sync([training.record()], training.target, {training.key: training.context})
    assert (report.added, report.completed, report.replaced) == (0, 0, 1)
    assert check_complete(client, training).info.run_id != before


def test_what_a_killed_feeder_sent_is_not_there_twice(server, tmp_path, monkeypatch):
    """Sent, but not noted as sent; and a run whose id was not written down."""
    client, training = server.client(), Training(tmp_path, server.uri)
    feeder = training.feeder(0)
    assert feeder.step(None)
    (training.state / "mlflow_run_id").unlink()  # killed before it was written
    feeder = training.feeder(training.rows(1, 6))
    noted = feeder._note
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feeder, "_note", lambda done=None, **given: noted(**given) or stop(done))
        feeder.step(None)
    feeder = training.feeder(training.rows(7, 12))
    feeder.inbox.record = training.record()
    assert feeder.step("finished")
    check_complete(client, training)


def stop(done):
    if done is not None:
        raise KeyboardInterrupt


def test_an_outage(server, tmp_path, capsys):
    """The server is down at the start, comes, dies in the middle, and comes back."""
    training = Training(tmp_path, server.uri)
    server.kill()
    feeder = training.feeder(training.rows(1, 3))
    assert not feeder.step(None)
    server.start()
    assert feeder.step(None)
    server.kill()
    feeder.inbox.saved = training.rows(4, 9)
    assert not feeder.step(None) and not feeder.step(None)
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1 and "no MLflow server answers" in told[0]
    server.start()
    client, run_id = server.client(), read_run_id(training.state)
    assert steps_of(client, run_id) == expected(3)
    assert feeder.step(None)
    assert steps_of(client, run_id) == expected(9)
    training.rows(10, 12)  # and here the job dies; the rest is for the replay
    context = {training.key: training.context}
    assert sync([training.record()], training.target, context).completed == 1
    assert check_complete(client, training).info.run_id == run_id
    assert sync([training.out / "record.json"], training.target, context).skipped == 1


@pytest.mark.slow
def test_a_server_that_comes_goes_and_comes_back(own_server, tmp_path, capfd):
    training = Training(tmp_path, own_server.uri)
    with training.live() as sink:
        sink.saved(training.rows(1, 3))
        own_server.start()
        client = own_server.client()
        run_id = until(lambda: read_run_id(training.state), "found the server")
        until(lambda: len(steps_of(client, run_id)) == 3, "caught up")
        own_server.kill()
        sink.saved(training.rows(4, 9))
    told = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1 and "no MLflow server answers" in told[0]
    own_server.start()
    training.attempt += 1
    with training.live() as sink:
        sink.saved(training.curve.stat().st_size)
        until(lambda: len(steps_of(client, run_id)) == 9, "caught up again")
        own_server.kill()
        sink.saved(training.rows(10, 12))
        sink.finished(training.record())
    own_server.start()
    context = {training.key: training.context}
    assert sync([training.out / "record.json"], training.target, context).completed == 1
    assert check_complete(client, training).info.run_id == run_id
    assert sync([training.out / "record.json"], training.target, context).skipped == 1


def test_a_server_that_hangs_holds_nobody_up(tmp_path):
    """It takes the connection and says nothing: the child is ended, the stage goes on."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        training = Training(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        spec = dataclasses.replace(training.spec(), patience=(1.0, 1.0))
        with live(spec) as sink:
            for _ in range(20000):  # more than a pipe holds
                sink.saved(1)
            sink.finished(training.out / "record.json")
        assert sink.child.returncode is not None


@pytest.mark.slow
def test_24_jobs_that_finish_at_once(server, tmp_path):
    run_at_once(server, tmp_path, 24)
