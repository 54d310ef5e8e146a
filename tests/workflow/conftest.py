"""The small project, run once."""

import pytest
from mini import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The project, run once without disturbance."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    done = project.run()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return project
