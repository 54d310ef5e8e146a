"""A real `mlflow server`, one that a test may kill, and a PostgreSQL for one."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from mlflow_servers import Server, free_port


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One that stays up."""
    made = Server(tmp_path_factory.mktemp("server")).start()
    yield made
    made.kill()


@pytest.fixture
def own_server(tmp_path):
    """One that the test starts and kills."""
    made = Server(tmp_path / "server")
    yield made
    made.kill()


@pytest.fixture(scope="module")
def postgres():
    """The URI of an empty database in a PostgreSQL of our own, which refuses to run as root."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parts[-2]))
    missing = None
    if os.getuid() != 0 or not shutil.which("runuser"):
        missing = "needs root, to become the user postgres"
    elif not binaries:
        missing = "no PostgreSQL: apt-get install postgresql"
    else:
        pytest.importorskip("psycopg2")
    if missing:
        if os.environ.get("CLIP4VLA_REQUIRE_POSTGRESQL"):
            pytest.fail(missing)
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # its socket's path must be short
    shutil.chown(folder, "postgres", "postgres")
    port, tools = free_port(), binaries[-1]

    def run(tool: str, *arguments: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(tools / tool), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    run("initdb", "--auth=trust", "--no-sync", "--pgdata", data)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "mlflow")
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/mlflow"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
