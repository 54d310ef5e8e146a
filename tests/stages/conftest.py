"""The working folder and server that the tests of a dataset share."""

import os
import sys
from pathlib import Path

import pytest
from data_world import World

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))

from synthetic import Misbehaving, make_clip


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clip4vla.media.fetch.BACKOFF_SECONDS", (0.0, 0.01, 0.01))
    for name in ("no_proxy", "NO_PROXY", "PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    body = make_clip(tmp_path / "clip.mp4").read_bytes()
    site = Misbehaving(body)
    with site.serving() as url:
        world = World(tmp_path, url)
        world.site = site
        yield world
