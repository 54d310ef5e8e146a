"""What must be on a server when runs have ended, however they did."""

import subprocess
import sys
from pathlib import Path

from fake_training import Training, expected, steps_of

from clip4vla.tracking import sync
from clip4vla.tracking.context import ROW
from clip4vla.tracking.store import COMPLETE, PARENT

PROGRAM = Path(__file__).with_name("fake_training.py")


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def our_runs(client, training, text=""):
    own = f"tags.workspace = '{training.target.owner}'"
    ids = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(ids, f"{own} and {text}" if text else own, max_results=1000)


def check_complete(client, training, last=12):
    """Everything of the run is there once; returns it."""
    (run,) = our_runs(client, training, f"tags.run_key = '{training.key}'")
    assert run.info.status == "FINISHED" and len(run.data.tags[COMPLETE]) == 64
    assert steps_of(client, run.info.run_id) == expected(last)
    assert run.data.metrics["best/t2v_R1"] == 5.0
    assert run.data.params == {"seed": "0", "optimiser.lr": "0.001"}
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == [
        "numbers.json",
        "train.json",
    ]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("msrvtt-v1-0a1b2c/train", "0" * 32)
    own = f"source_run_id = '{run.info.run_id}'"
    (model,) = client.search_logged_models([run.info.experiment_id], own)
    assert len(model.tags["sha256"]) == 64
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    (row,) = our_runs(client, training, f"tags.{ROW} = 'table5/inter/msrvtt'")
    assert run.data.tags[PARENT] == row.info.run_id
    return run


def run_at_once(server, folder, jobs):
    """Seeds of one row as live jobs that finish at once."""
    keys = [f"{number:012x}" for number in range(jobs)]
    started = [start(folder, server.uri, key, "finished", n) for n, key in enumerate(keys)]
    errors = [one.communicate()[1] for one in started]
    assert [one.returncode for one in started] == [0] * jobs, errors
    trainings = [Training(folder, server.uri, key, n) for n, key in enumerate(keys)]
    check_all(server, trainings, "".join(errors))


def check_all(server, trainings, printed=""):
    """Every run there once, one parent; what a busy server did not take in time is completed."""
    client, jobs = server.client(), len(trainings)
    records = [one.out / "record.json" for one in trainings]
    contexts = {one.key: one.context for one in trainings}
    report = sync(records, trainings[0].target, contexts)
    found = (report.skipped + report.completed, report.added, report.replaced)
    assert found == (jobs, 0, 0), f"{report} {printed}"
    assert sync(records, trainings[0].target, contexts).skipped == jobs
    for training in trainings:
        check_complete(client, training)
    assert len(our_runs(client, trainings[0])) == jobs + 1
