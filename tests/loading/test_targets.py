"""Targets of classes; the numbers of the released loader are in tests/parity/coavt."""

import pytest
import torch

from clip4vla.loading.targets import mixed, multi_hot, smoothed

PLACE = {"Cat": 0, "Dog": 1, "Rail transport": 2, "Speech": 3}


def test_labels_have_one_and_others_zero():
    assert multi_hot(["Speech", "Dog"], PLACE).tolist() == [0, 1, 0, 1]
    assert multi_hot([], PLACE).tolist() == [0, 0, 0, 0]
    with pytest.raises(KeyError):
        multi_hot(["Bird"], PLACE)


def test_smoothing_sets_labels_and_mixing_adds_to_them():
    dog, both = multi_hot(["Dog"], PLACE), multi_hot(["Dog", "Cat"], PLACE)
    assert smoothed(dog, 0.1).tolist() == pytest.approx([0.025, 0.9, 0.025, 0.025])
    assert smoothed(dog, 0.0).tolist() == dog.tolist()
    found = mixed(dog, both, 0.75, 0.1).tolist()
    assert found == pytest.approx([0.025 + 0.9 / 4, 0.025 + 0.9, 0.025, 0.025])
    assert mixed(dog, both, 1.0, 0.0).tolist() == dog.tolist()
    rows = torch.stack([dog, both])
    assert smoothed(rows, 0.1)[0].tolist() == smoothed(dog, 0.1).tolist()
