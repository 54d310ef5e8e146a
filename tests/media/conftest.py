import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import make_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """One second of picture and sound."""
    return make_clip(tmp_path_factory.mktemp("media") / "clip.mp4")
