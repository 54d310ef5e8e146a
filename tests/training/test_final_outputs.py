"""Finished outputs are published again as the training wrote them, or not at all."""

import json

import pytest
from tiny_world import build_world, finetune, optimiser

from clip4vla.common.errors import UserError
from clip4vla.training.train import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished probe, and the call that publishes it again."""
    folder = tmp_path_factory.mktemp("finished")
    manifests = build_world(folder / "world")
    given = {"val": None, "selection": "last", "missing_audio": "none"}
    run = finetune("classification", optimiser=optimiser(epochs=1), **given)

    def publish() -> None:
        train(run, manifests, None, {}, None, folder / "state", folder / "out")

    publish()
    return folder, publish


def test_intact_outputs_are_published_again(finished):
    folder, publish = finished
    model = folder / "out" / "model.safetensors"
    before = model.read_bytes()
    model.unlink()
    publish()
    assert model.read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "train.json", "metrics.jsonl"])
def test_changed_outputs_are_refused(finished, name):
    folder, publish = finished
    path = folder / "state" / "final" / name
    before = path.read_bytes()
    for content in (before[:-1] + bytes([before[-1] ^ 1]), before[:10], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="changed since the training wrote it. Fix: ") as error:
            publish()
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(before)
    assert (folder / "out" / name).read_bytes() == before


@pytest.mark.parametrize("name", ["identity.json", "files.json"])
def test_damaged_facts_are_named(finished, name):
    folder, publish = finished
    path = folder / "state" / "final" / name
    before = path.read_text()
    for text in ("", before[:20], "3"):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{name}: damaged\. Fix: "):
            publish()
    path.write_text(before)


def test_outputs_of_an_older_version_have_no_hashes(finished):
    folder, publish = finished
    path = folder / "state" / "final" / "files.json"
    assert json.loads(path.read_text()).keys() == {
        "model.safetensors",
        "train.json",
        "metrics.jsonl",
    }
    before = path.read_text()
    path.unlink()
    publish()
    path.write_text(before)
