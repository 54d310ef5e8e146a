"""A node dies under a pre-training of two: it goes on, and ends as if nothing had been."""

import filecmp
import sys

import pytest
from small import EPOCHS
from watch import attempts_of, curve_of, key_of, pretrainings, reached, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SAFE = 10  # steps in a checkpoint before the node dies


@pytest.fixture(scope="module")
def frozen(planned, tmp_path_factory):
    """A project with all its data; tests work on copies of it."""
    project = planned.copy(tmp_path_factory.mktemp("frozen") / "project")
    project.run("snakemake", "--cores", "2", "--quiet", "all", "--", "data")
    return project


@pytest.fixture(scope="module")
def undisturbed(frozen, tmp_path_factory):
    """Results of the same training on two ranks here, started by torchrun."""
    project = frozen.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    key = key_of(project)
    project.run(sys.executable, *ranks, "-m", "clip4vla", "train", key, "--threads", "1")
    return project.folder / "results" / "runs" / key


@pytest.mark.parametrize("lost", ["worker", "batch host"])
def test_pretraining_survives_a_lost_node(
    cluster, impatient, frozen, undisturbed, setup, tmp_path, lost
):
    project = frozen.copy(tmp_path / "project")
    setup(project)
    key, earlier = key_of(project), len(pretrainings(cluster))
    snakemake = project.start("--profile", "slurm", f"results/runs/{key}/model.safetensors")
    state = project.folder / "runs" / key
    until(lambda: reached(state) >= SAFE, "a checkpoint")
    job = pretrainings(cluster)[-1][1]
    hosts = cluster.slurm("squeue", "--noheader", "--jobs", job, "--format=%B %N").split()
    first = hosts[0]
    (other,) = {"v100-1", "v100-2"} - {first}
    dead = first if lost == "batch host" else other
    safe = reached(state)
    cluster("node-kill", dead)
    nodes = ("sinfo", "--noheader", "--Node", "--nodes", dead, "--format=%T")
    until(lambda: "down" in cluster.slurm(*nodes), "Slurm to notice", 120)
    assert snakemake.poll() is None, project.log()[-3000:]
    cluster("node-start", dead)
    assert snakemake.wait(timeout=400) == 0, project.log()[-3000:]

    log = (project.folder / "logs" / "pretrain" / f"{key}.log").read_text()
    print(log, attempts_of(state))
    jobs = pretrainings(cluster)[earlier:]
    if lost == "batch host":
        assert [name for _, name, _ in jobs] == [job], "Slurm requeued it, nobody submitted another"
    last = attempts_of(state)[-1]  # a finished training keeps no checkpoints
    assert (last["end"], last["step"]) == ("finished", 2 * EPOCHS)
    assert safe < 2 * EPOCHS
    result = project.folder / "results" / "runs" / key
    assert curve_of(result) == list(range(1, 2 * EPOCHS + 1)), "no step lost, none twice"
    assert filecmp.cmp(result / "model.safetensors", undisturbed / "model.safetensors", False)


def test_srun_trains_as_torchrun_does(cluster, frozen, undisturbed, tmp_path):
    """Inside an allocation of the user's: ranks and their meeting place from Slurm's variables."""
    project = frozen.copy(tmp_path / "project")
    key = key_of(project)
    nodes = ("--nodes", "2", "--ntasks-per-node", "1", "--mem", "2000", "--time", "20")
    project.run("srun", *nodes, "clip4vla", "train", key, "--threads", "1")
    result = project.folder / "results" / "runs" / key
    assert filecmp.cmp(result / "model.safetensors", undisturbed / "model.safetensors", False)
