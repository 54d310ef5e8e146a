"""The tiny world of the training tests, and one run of each task to evaluate."""

import pytest
from tiny_world import build_world, finetune, optimiser

from clip4vla.training.train import train


@pytest.fixture(scope="session")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("evaluation") / "world")


@pytest.fixture(scope="session")
def trained(manifests, tmp_path_factory):
    """`trained(task)` gives the weights of a short run, trained once."""
    made = {}

    def weights(task):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            given = {"val": None, "selection": "last", "missing_audio": "none"}
            run = finetune(task, optimiser=optimiser(epochs=3), **given)
            train(run, manifests, None, {}, None, folder / "state", folder / "out")
            made[task] = folder / "out" / "model.safetensors"
        return made[task]

    return weights
