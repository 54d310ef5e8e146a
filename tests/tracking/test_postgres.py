"""The server of a team, on PostgreSQL: the same as on sqlite."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from fake_training import Training, steps_of, until
from live_checks import check_complete, run_at_once
from mlflow_servers import Server

from clip4vla.tracking import sync
from clip4vla.tracking.context import read_run_id
from clip4vla.tracking.store import Store

ROUNDS = 4  # of 10 with one request each, all met an error


def at_once(works):
    """Do several things at the same moment; their errors are raised."""
    barrier = Barrier(len(works))

    def work(one):
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(work, works))


@pytest.fixture(scope="module")
def team_server(postgres, tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("team"), backend=postgres).start()
    yield made
    made.kill()


@pytest.mark.parametrize(
    "jobs", [pytest.param(3, id="3"), pytest.param(24, id="24", marks=pytest.mark.slow)]
)
def test_jobs_that_finish_at_once(team_server, tmp_path, jobs):
    run_at_once(team_server, tmp_path, jobs)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_jobs_that_begin_an_experiment_at_once(team_server, tmp_path, number):
    """Each sets the experiment's tags, and logs the same dataset to a run of its own."""
    from mlflow.entities import Dataset, DatasetInput

    target = Training(tmp_path, team_server.uri).target
    target = dataclasses.replace(target, experiment=f"at-once-{number}")
    stores = [Store(target, retries=0) for _ in range(3)]
    assert len(set(at_once([lambda s=s: s.experiment("evaluate") for s in stores]))) == 1
    runs = [store.create("evaluate", "a run", {}).info.run_id for store in stores]
    inputs = [DatasetInput(Dataset(name, "0" * 32, "local", "{}"), []) for name in "ab"]
    pairs = zip(stores, runs, strict=True)
    at_once([lambda s=s, r=r: s.log_datasets(r, inputs) for s, r in pairs])
    for run in runs:
        logged = team_server.client().get_run(run).inputs.dataset_inputs
        assert sorted(item.dataset.name for item in logged) == ["a", "b"]


@pytest.mark.slow
def test_killed_in_the_middle_and_replayed_twice(team_server, tmp_path):
    client, training = team_server.client(), Training(tmp_path, team_server.uri)
    with training.live() as sink:
        sink.saved(training.rows(1, 6))
        run_id = until(lambda: read_run_id(training.state), "begun")
        until(lambda: len(steps_of(client, run_id)) == 6, "sent")
        team_server.kill()
        sink.saved(training.rows(7, 12))
        team_server.start()
        until(lambda: len(steps_of(client, run_id)) == 12, "caught up")
        sink.finished(training.record())
    assert check_complete(client, training).info.run_id == run_id
    for _ in range(2):
        context = {training.key: training.context}
        assert sync([training.out / "record.json"], training.target, context).skipped == 1
    check_complete(client, training)
