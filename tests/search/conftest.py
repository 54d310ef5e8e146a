"""A tiny model for the tests of embedding, and a folder of files good and bad."""

import shutil

import pytest
from embed_files import PATHS, write_tiny

import clip4vla


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture(scope="module")
def model(weights):
    return clip4vla.load(weights, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Two clips, one of them in a subfolder, a cut-off video, a text file and a hidden file."""
    (tmp_path / "in" / "more").mkdir(parents=True)
    shutil.copy(PATHS[0], tmp_path / "in" / "b.mp4")
    shutil.copy(PATHS[2], tmp_path / "in" / "more" / "a.anything")
    (tmp_path / "in" / "c.mp4").write_bytes(PATHS[1].read_bytes()[:5000])
    (tmp_path / "in" / "notes.txt").write_text("not media")
    (tmp_path / "in" / ".hidden.mp4").write_bytes(b"")
    return tmp_path / "in"
