"""A real Slurm of two nodes for the tests of this folder; skipped, with a reason, where there is none."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from small import EPOCHS, Small

CLUSTER = Path(__file__).parent / "slurm-test-cluster"
REQUIRED = "CLIP4VLA_REQUIRE_SLURM"  # set where a missing Slurm is a failure, not a skip


def _lacking() -> str | None:
    if shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is None:
        return f"Slurm is not installed: {CLUSTER.name} install (root)"
    return None if os.geteuid() == 0 else "the test cluster needs root"


def _ports() -> int:
    """The lowest of a range of free ports, another one for each process of the tests."""
    for base in range(16800 + 100 * (os.getpid() % 100), 32000, 100):
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_ports:
            for offset in (6, 17, 19, 21, 22):  # as slurm-test-cluster uses them
                open_ports.enter_context(socket.create_server(("127.0.0.1", base + offset)))
            return base
    pytest.fail("no free ports for a Slurm cluster")


class Cluster:
    """The cluster's commands, and Slurm's own."""

    def __init__(self, folder: Path):
        self.variables = {"SLURM_TEST_DIR": str(folder), "SLURM_TEST_PORT_BASE": str(_ports())}
        self.folder = folder

    def __call__(self, *command: str) -> str:
        """Output of a command of `slurm-test-cluster`."""
        return _output([str(CLUSTER), *command], os.environ | self.variables)

    def slurm(self, *command: str) -> str:
        """Output of a Slurm command, run as a user of the cluster."""
        return _output(list(command), os.environ)


def _output(command: list[str], environment) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def cluster():
    lacking = _lacking()
    if lacking and os.environ.get(REQUIRED):
        pytest.fail(f"{lacking}, but {REQUIRED} is set")
    if lacking:
        pytest.skip(lacking)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets need a short path
    own = Cluster(folder)
    try:
        own("up")
        conf = own("env").split("SLURM_CONF=")[1].split()[0].strip("'\"")
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = conf
        yield own
        if before is None:
            del os.environ["SLURM_CONF"]
    finally:
        own("down")
        shutil.rmtree(folder, ignore_errors=True)


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
