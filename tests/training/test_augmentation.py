"""Training on augmented clips: it learns, and nothing but seed and epoch decides what it reads."""

import numpy as np
import pandas as pd
import pytest
from tiny_world import build_world, colour, finetune, optimiser

from clip4vla.common.errors import RetryLater
from clip4vla.common.files import read_json
from clip4vla.config.data import Cache
from clip4vla.config.sections import Augment
from clip4vla.training.outputs import OUTPUTS
from clip4vla.training.train import train

AUGMENT = Augment(mixup=0.5, frequency_mask=48, time_mask=60, noise=True, roll=True)
TASKS = {
    "classification": lambda name: [name],
    "tagging": lambda name: [name, *(["warm"] if name == "red" else [])],
}


@pytest.fixture(scope="module", params=TASKS)
def world(request, tmp_path_factory):
    """The task and the manifests of a world whose cache has waveforms."""

    def labelled(splits):
        labels = splits.clip_id.map(colour).map(TASKS[request.param])
        return splits.assign(labels=labels)

    folder = tmp_path_factory.mktemp(request.param) / "world"
    return request.param, build_world(folder, labelled, Cache(waveform=True))


def augmented(task, epochs, **given):
    return finetune(
        task,
        missing_audio="none",
        trainable="all",
        sampling="balanced",
        label_smoothing=0.1,
        augment=AUGMENT,
        optimiser=optimiser(epochs=epochs, microbatch=3),
        **given,
    )


def test_it_learns_from_clips_that_are_mixed(world, tmp_path):
    task, manifests = world
    train(augmented(task, 12), manifests, None, {}, None, tmp_path / "state", tmp_path)
    assert read_json(tmp_path / "train.json")["val_value"] > 90
    losses = pd.read_json(tmp_path / "metrics.jsonl", lines=True)["train/loss"].dropna()
    assert np.mean(losses[-3:]) < 0.8 * losses.iloc[0]


def test_training_stopped_anywhere_ends_with_the_same_bits(world, tmp_path):
    task, manifests = world
    run, parts, stops = augmented(task, 2), tmp_path / "parts", 0
    train(run, manifests, None, {}, None, tmp_path / "state", tmp_path / "whole")
    while True:
        try:
            train(run, manifests, None, {}, None, parts / "s", parts, max_seconds=0.0)
            break
        except RetryLater:
            stops += 1
    assert stops >= 4
    for name in OUTPUTS:
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
