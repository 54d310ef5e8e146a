"""How near captions are, of features whose nearness is known, and of a tower of ours."""

import numpy as np
import pytest
from learning.captions import nearness, shares, told_apart

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.config.data import Cache
from clip4vla.config.sections import Inputs
from clip4vla.config.settings import Settings
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.settings import Model


def test_nearness_of_known_features():
    assert nearness(np.eye(5)) == pytest.approx((0, 0, 4))
    angles = np.deg2rad([0, 60, 180, 240])
    on_a_circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    median, nearest, dimension = nearness(on_a_circle)
    assert (median, nearest) == pytest.approx((-0.5, 0.5))
    assert 1 < dimension < 2


def test_shares_of_the_variance():
    first, second = np.array([[3.0], [-3.0]]), np.array([[1.0], [-1.0]])
    assert shares(first[:, None] + second[None]) == pytest.approx((0.9, 0.1))
    both = np.array([[[1.0], [-1.0]], [[-1.0], [1.0]]])  # neither alone tells anything
    assert shares(both) == pytest.approx((0, 0))


def test_every_pair_of_things_has_a_caption_of_its_own(tmp_path):
    config, inputs = Model(architecture="tiny", weights=None), Inputs(max_words=16)
    settings = Settings(model=config, inputs=inputs, cache=Cache())
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, build_model(config, {}, inputs=inputs), settings, {})
    rows = told_apart(path).splitlines()[2:]
    assert [row.split(":")[0] for row in rows[-2:]] == ["mixed", "balanced"]
    assert [row.split(" | ")[:2] for row in rows[:3]] == [
        ["| speech", "28"],
        ["| sounds", "28"],
        ["| events", "28"],
    ]
