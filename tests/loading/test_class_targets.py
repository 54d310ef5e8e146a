"""Targets of classes; the numbers of the released loader are in tests/parity/coavt."""

import pytest
import torch

from clip4vla.loading.targets import ClassTargets, mixed, multi_hot, smoothed

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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_has_mixed_targets_only_where_clips_are_mixed(smoothing):
    targets = ClassTargets(list(PLACE), shares=True, smoothing=smoothing)
    labels = [("Dog",), ("Cat", "Dog"), ("Speech",)]
    batch = {"labels": labels}
    assert torch.equal(targets.of_batch(batch), targets(labels))
    share = torch.tensor([1.0, 0.75, 0.5], dtype=torch.float64)
    found = targets.of_batch(batch | {"share": share, "mixed_labels": [(), ("Dog",), ("Cat",)]})
    assert found.dtype == torch.float32 and torch.equal(found[0], targets(labels)[0])
    base, rest = smoothing / 4, 1 - smoothing
    assert found[1].tolist() == pytest.approx([base + 0.75 * rest, base + rest, base, base])
    assert found[2].tolist() == pytest.approx([base + 0.5 * rest, base, base, base + 0.5 * rest])


def test_a_batch_without_shares_has_the_numbers_of_classes():
    targets = ClassTargets(list(PLACE), shares=False)
    assert targets.of_batch({"labels": [("Speech",), ("Cat",)]}).tolist() == [3, 0]
