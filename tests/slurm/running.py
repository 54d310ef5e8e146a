"""A real Slurm of two nodes for the tests of this folder; skipped, with a reason, without Slurm."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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

    def __init__(self, folder: Path, settings: dict[str, str]):
        self.variables = {
            "SLURM_TEST_DIR": str(folder),
            "SLURM_TEST_PORT_BASE": str(_ports()),
            **settings,
        }
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


def running_cluster(settings: dict[str, str]) -> Iterator[Cluster]:
    """A cluster for as long as a fixture lives; SLURM_CONF names it meanwhile."""
    lacking = _lacking()
    if lacking and os.environ.get(REQUIRED):
        pytest.fail(f"{lacking}, but {REQUIRED} is set")
    if lacking:
        pytest.skip(lacking)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets need a short path
    own = Cluster(folder, settings)
    try:
        own("up")
        conf = own("env").split("SLURM_CONF=")[1].split()[0].strip("'\"")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", conf)
            yield own
    finally:
        own("down")
        shutil.rmtree(folder, ignore_errors=True)
