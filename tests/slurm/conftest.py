"""A real Slurm of two nodes for the tests of this folder; skipped, with a reason, where there is none."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "slurm-test-cluster"
REQUIRED = "CLIP4VLA_REQUIRE_SLURM"  # set where a missing Slurm is a failure, not a skip


def _lacking() -> str | None:
    if shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is None:
        return f"Slurm is not installed: {CLUSTER.name} install (root)"
    return None if os.geteuid() == 0 else "the test cluster needs root"


class Cluster:
    """The cluster's commands, and Slurm's own."""

    def __init__(self, folder: Path):
        self.variables = {"SLURM_TEST_DIR": str(folder)}
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
