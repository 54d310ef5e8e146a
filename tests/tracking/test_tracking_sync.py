import contextlib
import importlib
import json
import multiprocessing
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest
from fake_training import Training, defer
from live_checks import check_all, check_complete, start

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.tracking import Target, sync, write_record
from clip4vla.tracking import store as store_module
from clip4vla.tracking.server import quiet_mlflow
from clip4vla.tracking.store import COMPLETE, TRIES, Store

sync_module = importlib.import_module("clip4vla.tracking.sync")  # its name is a function's, too
CURVE = 1100  # more than one batch


class World:
    """One store for all tests of this module; each test has its own experiments and records."""

    def __init__(self, root: Path):
        self.root = root
        self.db = root / "store" / "mlflow.db"
        self.client = quiet_mlflow().MlflowClient(tracking_uri=f"sqlite:///{self.db}")

    def sync(self, records, prefix, contexts=None):
        report = sync(records, self.target(prefix), contexts)
        self.run_ids = report.runs
        return report.added, report.skipped, report.replaced, report.completed

    def target(self, prefix):
        return Target(f"sqlite:///{self.db}", prefix, self.root / "locks", self.root / "artifacts")

    def runs(self, prefix, kind):
        found = self.client.get_experiment_by_name(f"{prefix}/{kind}")
        return self.client.search_runs([found.experiment_id]) if found else []

    def models(self, prefix, kind):
        found = self.client.get_experiment_by_name(f"{prefix}/{kind}")
        return self.client.search_logged_models([found.experiment_id])

    def records(self, name, steps=2):
        """A dataset and a fine-tuning that starts from it, with curve, artifact and weights."""
        folder = self.root / name
        folder.mkdir()
        (folder / "train.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        lines = [{"step": s, "epoch": 1, "loss": 1 / s} for s in range(1, steps + 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        tables = [folder / "tables" / name / "table.md" for name in ("table1", "table2")]
        for path in tables:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.parent.name)
        data, train = folder / "z-data.json", folder / "a-train.json"
        write_record(data, "data", "demo-v1", "demo", metrics={"clips": 20})
        write_record(
            train,
            "finetune",
            "k1",
            "table1/row/s0",
            params={f"model.p{i:03d}": "x" * 7000 for i in range(101)} | {"threads": 4},
            tags={"table_rows": "table1/row"},
            metrics={"t2v_R@1": 5.0, "loss": 0.5},
            curve=folder / "metrics.jsonl",
            artifacts=[folder / "train.json", *tables],
            inputs=["demo-v1"],
            model=folder / "model.safetensors",
        )
        return [train, data]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("mlflow"))


def test_everything_of_a_record_arrives_once(world):
    records = world.records("once", CURVE)
    assert world.sync(records, "once") == (2, 0, 0, 0)
    (data,), (run,) = world.runs("once", "data"), world.runs("once", "finetune")
    assert world.run_ids == {"demo-v1": data.info.run_id, "k1": run.info.run_id}
    assert (run.info.run_name, run.info.status) == ("table1/row/s0", "FINISHED")
    tags = run.data.tags
    assert (tags["run_key"], tags["stage"], tags["table_rows"]) == ("k1", "finetune", "table1/row")
    assert tags["parent.demo-v1"] == data.info.run_id
    assert len(run.data.params) == 100 and len(run.data.params["model.p000"]) == 6000
    assert "threads" not in run.data.params
    history = world.client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1 / s) for s in range(1, CURVE + 1)]
    assert (run.data.metrics["t2v_R_1"], run.data.metrics["final/loss"]) == (5.0, 0.5)
    listed = world.client.list_artifacts
    assert [f.path for f in listed(run.info.run_id)] == [
        "numbers.json",
        "tables",
        "train.json",
    ]
    assert [f.path for f in listed(run.info.run_id, "tables")] == ["tables/table1", "tables/table2"]
    (model,) = world.models("once", "finetune")
    assert len(model.tags["sha256"]) == 64 and model.source_run_id == run.info.run_id

    assert world.sync(records, "once") == (0, 2, 0, 0)
    assert [r.info.run_id for r in world.runs("once", "finetune")] == [run.info.run_id]
    assert len(world.client.get_metric_history(run.info.run_id, "loss")) == CURVE
    assert len(world.models("once", "finetune")) == 1


@pytest.mark.parametrize("step", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_a_killed_sync_is_completed_by_the_next(world, monkeypatch, step):
    records = world.records(f"killed-{step}")
    prefix = f"killed-{step}"
    client_type = type(world.client)
    real = getattr(client_type, step)

    def killed(self, *arguments, **named):
        if step != "create_run":
            raise KeyboardInterrupt
        real(self, *arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client_type, step, killed)
        with pytest.raises(KeyboardInterrupt):
            world.sync(records, prefix)
    assert all(COMPLETE not in r.data.tags for r in world.runs(prefix, "finetune"))
    added, _, _, completed = world.sync(records, prefix)
    assert (added, completed) == (1, 1)
    for kind in ("data", "finetune"):
        (run,) = world.runs(prefix, kind)
        assert COMPLETE in run.data.tags
    assert len(world.models(prefix, "finetune")) == 1
    assert world.sync(records, prefix) == (0, 2, 0, 0)


def test_a_changed_record_replaces_its_run_and_children_follow(world):
    records = world.records("changed")
    world.sync(records, "changed")
    (before,) = world.runs("changed", "data")
    write_record(records[1], "data", "demo-v1", "demo", metrics={"clips": 19})
    assert world.sync(records, "changed") == (0, 1, 1, 0)
    (data,) = world.runs("changed", "data")
    assert data.info.run_id != before.info.run_id
    assert data.data.metrics == {"clips": 19.0}
    (child,) = world.runs("changed", "finetune")
    assert child.data.tags["parent.demo-v1"] == data.info.run_id


def test_an_input_synced_earlier_is_linked(world):
    train, data = world.records("later")
    world.sync([data], "later")
    world.sync([train], "later")
    (parent,), (child,) = world.runs("later", "data"), world.runs("later", "finetune")
    assert child.data.tags["parent.demo-v1"] == parent.info.run_id


def test_a_deleted_experiment_is_restored(world):
    _, data = world.records("deleted")
    world.sync([data], "deleted")
    found = world.client.get_experiment_by_name("deleted/data")
    world.client.delete_experiment(found.experiment_id)
    world.sync([data], "deleted")
    assert len(world.runs("deleted", "data")) == 1


def test_a_deleted_experiment_that_two_jobs_restore(world, monkeypatch):
    """Both have found it deleted."""
    first, second = (Store(world.target("restored")) for _ in range(2))
    first_id = first.experiment("data")
    world.client.delete_experiment(first_id)
    deleted = world.client.get_experiment(first_id)
    world.client.restore_experiment(first_id)
    monkeypatch.setattr(second.client, "get_experiment_by_name", lambda name: deleted)
    assert second.experiment("data") == first_id


def test_errors_name_the_record(world):
    train, data = world.records("mistakes")
    copy = data.with_name("copy.json")
    copy.write_bytes(data.read_bytes())
    with pytest.raises(UserError, match=r"z-data\.json: data demo-v1 is recorded in .*copy\.json"):
        world.sync([data, copy], "mistakes")
    (train.parent / "train.json").unlink()
    with pytest.raises(
        UserError, match=r"train\.json: missing, .*Fix: run `snakemake .*train\.json`"
    ):
        world.sync([train], "mistakes")


@pytest.mark.parametrize("name", ["train.json", "metrics.jsonl", "model.safetensors"])
def test_files_that_differ_from_their_record_are_reported_and_sent_later(world, name):
    prefix = f"contradicts-{name}"
    train, data = world.records(prefix)
    path = train.with_name(name)
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    with pytest.raises(UserError) as error:
        world.sync([train, data], prefix)
    assert str(error.value).startswith(f"{path}: its sha256 differs from the one in record.json")
    assert "\n" not in str(error.value)
    assert f"Fix: delete it and run `snakemake ... {path}`" in str(error.value)
    assert str(error.value).endswith(", then sync again")
    assert len(world.runs(prefix, "data")) == 1 and not world.runs(prefix, "finetune")
    path.write_bytes(before)
    assert world.sync([train, data], prefix) == (1, 1, 0, 0)


class Deferred:
    """An sqlite store, by the names that a server has."""

    def __init__(self, path):
        self.uri = f"sqlite:///{path}"

    def client(self):
        return quiet_mlflow().MlflowClient(tracking_uri=self.uri)


@pytest.mark.parametrize(
    "jobs", [pytest.param(3, id="3"), pytest.param(24, id="24", marks=pytest.mark.slow)]
)
def test_jobs_that_finish_at_once_into_one_store(tmp_path, jobs):
    """Forked, so that they need not import MLflow each."""
    store, fork = Deferred(tmp_path / "mlflow.db"), multiprocessing.get_context("fork")
    trainings = [Training(tmp_path, store.uri, f"{n:012x}", n) for n in range(jobs)]
    started = [fork.Process(target=defer, args=[training]) for training in trainings]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert [one.exitcode for one in started] == [0] * jobs
    check_all(store, trainings)


@pytest.mark.slow
def test_kill_9_of_the_sync_at_any_moment(tmp_path):
    """The same command again and again, each time killed a little later, then left alone."""
    store = Deferred(tmp_path / "mlflow.db")
    training = Training(tmp_path, store.uri)
    for number in range(12):
        one = start(tmp_path, store.uri, training.key, "deferred")
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.communicate(timeout=2 + number * 0.7)
        one.kill()
        one.communicate()
    assert start(tmp_path, store.uri, training.key, "deferred").wait() == 0
    check_complete(store.client(), training)


def test_a_new_store_is_created_atomically(tmp_path, monkeypatch):
    from mlflow.db import upgrade

    def killed(url):
        Path(url.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(upgrade, "callback", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(Target(f"sqlite:///{tmp_path / 'mlflow.db'}", "p", tmp_path.parent / "locks"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    path = Path("/proc/mlflow.db")
    with pytest.raises(OSError) as caught:
        Store(Target(f"sqlite:///{path}", "p", tmp_path / "locks"))
    assert caught.value.filename == str(path)


class OtherJob:
    """A client beside another job, which writes first a number of times."""

    def __init__(self, refusals, text):
        self.error = quiet_mlflow().exceptions.MlflowException(text)
        self.refusals, self.requests = refusals, 0

    def log_inputs(self, run_id, datasets):
        self.requests += 1
        if self.requests <= self.refusals:
            raise self.error


@pytest.mark.parametrize(
    ("refusals", "text", "requests"),
    [
        (1, 'duplicate key value violates unique constraint "dataset_pk"', 2),
        (1, "Duplicate entry 'a' for key 'PRIMARY'", 2),
        (1, "UNIQUE constraint failed: datasets.name", 2),
        (1, "deadlock detected", 2),
        (1, "Deadlock found when trying to get lock; try restarting transaction", 2),
        (TRIES, "duplicate key", TRIES),
        (1, "null value violates a constraint", 1),
    ],
)
def test_a_row_that_another_job_wrote_first(world, refusals, text, requests):
    store = Store(world.target("beside"))
    store.client = OtherJob(refusals, text)
    refused = requests == refusals
    with pytest.raises(Exception, match=text) if refused else contextlib.nullcontext():
        store.log_datasets("0" * 32, ["a dataset"])
    assert store.client.requests == requests


DAMAGES = {
    "junk": lambda content: b"junk" * 2000,
    "truncated": lambda content: content[: len(content) // 2],
    "a hole at its end": lambda content: content[:-8192] + bytes(8192),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_store_is_named(world, tmp_path, damage):
    world.sync(world.records(f"damaged {damage}"), "damaged")
    path = tmp_path / "mlflow.db"
    path.write_bytes(DAMAGES[damage](world.db.read_bytes()))
    target = Target(f"sqlite:///{path}", "p", tmp_path / "locks")
    message = (
        rf"{path}: corrupt or truncated sqlite store\. Fix: move it away and run `clip4vla sync`"
    )
    with pytest.raises(UserError, match=message):
        sync([], target)


@pytest.fixture
def held(tmp_path):
    """A store that another program has locked, and the connection that holds it."""
    path = tmp_path / "mlflow.db"
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("CREATE TABLE runs (id)")
        other.execute("BEGIN EXCLUSIVE")
        yield path, other


def test_a_store_that_stays_locked_is_a_retry(tmp_path, monkeypatch, held):
    monkeypatch.setattr(store_module, "LOCKED_SECONDS", 0.1)
    target = Target(f"sqlite:///{held[0]}", "x", tmp_path / "locks", tmp_path / "artifacts")
    with pytest.raises(RetryLater, match="keeps the store locked. Fix: end it") as error:
        sync([], target)
    assert "\n" not in str(error.value)


def test_a_sync_waits_for_a_locked_store(monkeypatch, held):
    path, other = held
    monkeypatch.setattr(store_module, "LOCKED_SECONDS", 60.0)
    release = threading.Timer(0.2, other.rollback)
    release.start()
    store_module._wait_until_free(path)
    release.join()


def test_a_lock_in_the_middle_of_a_sync_is_a_retry_too(tmp_path, monkeypatch):
    def locked(*arguments):
        raise RuntimeError("(sqlite3.OperationalError) database is locked\n[SQL: INSERT ...]")

    monkeypatch.setattr(sync_module, "_sync", locked)
    target = Target(f"sqlite:///{tmp_path}/x.db", "x", tmp_path / "locks", tmp_path / "artifacts")
    with pytest.raises(RetryLater, match="x.db: another program keeps the store locked"):
        sync([], target)
