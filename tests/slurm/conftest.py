"""The cluster that the tests of this folder share, and projects that run on it."""

import threading

import pytest
from running import running_cluster
from small import EPOCHS, Small


@pytest.fixture(scope="session")
def cluster():
    yield from running_cluster({})


@pytest.fixture
def impatient(cluster):
    """Slurm holds a requeued job for two minutes; here it starts at once."""
    done = threading.Event()

    def hurry():
        while not done.wait(1.0):
            cluster("hurry")

    thread = threading.Thread(target=hurry)
    thread.start()
    yield
    done.set()
    thread.join()


@pytest.fixture(scope="session")
def planned(tmp_path_factory, cluster):
    """A project whose clips are fetched and probed; tests work on copies of it."""
    project = Small(tmp_path_factory.mktemp("planned") / "project", EPOCHS)
    project.run("snakemake", "--cores", "2", "--until", "ledger", "--quiet", "all", "--", "data")
    return project


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """Write the user's profile with `clip4vla setup slurm`; then make it quick, as tests must be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))

    def setup(project, *, pretrain_in=None, **given):
        values = {"account": "v100", "partition": "v100", "nodes": 2, "gpus-per-node": 0}
        values |= {"threads": 1, "minutes": 10, "mem-mb": 2000} | given
        options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        project.run("clip4vla", "setup", "slurm", *options)
        path = tmp_path / "home" / "snakemake" / "slurm" / "config.yaml"
        text = path.read_text().replace("status-checks: 30", "status-checks: 5")
        text = text.replace("latency-wait: 60 ", "latency-wait: 5 ")
        text = text.replace("mem_mb: 8000", "mem_mb: 1500", 1)  # the default, of shards
        if pretrain_in is not None:  # the partition that others may push aside
            before, rule, after = text.partition("  pretrain_run:\n    launcher")
            text = before + rule + after.replace("*partition", pretrain_in, 1)
        path.write_text(text)

    return setup
