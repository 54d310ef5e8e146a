"""An index of a few clips, and its page on loopback."""

import json
import shutil
from pathlib import Path

import pytest
from app_client import ODD, served
from app_files import FILM, OTHER, SILENT, SPEECH, THIRD, made
from embed_files import write_tiny

from clip4vla.search.build import IndexHardware, IndexOptions, build


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture(scope="session")
def index_of(weights):
    """A function that indexes a folder of clips, and returns the folder of the index."""
    options = IndexOptions(checkpoint=str(weights), window=4.0, both_tokens=True)
    return lambda clips: build(clips, options, IndexHardware(device="cpu")).index


@pytest.fixture(scope="session")
def original(tmp_path_factory, index_of):
    """A folder with clips in it, and its index."""
    home = tmp_path_factory.mktemp("app")
    clips = home / "clips"
    (clips / "more").mkdir(parents=True)
    for path in (FILM, SILENT):
        shutil.copy(path, clips)
    shutil.copy(SPEECH, clips / "more")
    made(clips, "old.avi", OTHER)
    made(clips, "sound.flac", THIRD).rename(clips / ODD)
    return clips, index_of(clips)


@pytest.fixture(scope="module")
def client(original, tmp_path_factory):
    with served(original[1], tmp_path_factory.mktemp("served") / "temporary") as client:
        yield client


@pytest.fixture
def own(original, tmp_path):
    """A copy of the clips and of the index, to be damaged: client, clips."""
    clips = Path(shutil.copytree(original[0], tmp_path / "clips"))
    for path in clips.rglob("*.*"):
        shutil.copystat(original[0] / path.relative_to(clips), path)
    index = Path(shutil.copytree(original[1], tmp_path / "clips.index"))
    description = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(description | {"folder": str(clips)}))
    with served(index, tmp_path / "temporary") as client:
        yield client, clips
