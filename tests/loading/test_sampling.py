"""Balanced sampling: weights by hand, frequencies, and purity of the order."""

import numpy as np
import pytest

from clip4vla.loading.sampling import balanced_order, balancing_weights

LABELS = [["Speech"]] * 90 + [["Bell", "Speech"]] * 6 + [["Bell"]] * 3 + [[]]
SHARDS = np.arange(100) // 10


def test_weights_are_sums_over_labels():
    weights = balancing_weights(LABELS)
    speech, bell = 1000 / 96.01, 1000 / 9.01
    assert weights[[0, 90, 96, 99]] == pytest.approx([speech, speech + bell, bell, 0])


def test_rare_classes_are_drawn_as_often_as_their_weights_say():
    weights = balancing_weights(LABELS)
    drawn = np.concatenate([balanced_order(weights, SHARDS, 0, epoch)[0] for epoch in range(300)])
    found = np.bincount(drawn, minlength=100) / len(drawn)
    assert found == pytest.approx(weights / weights.sum(), abs=0.005)
    assert found[99] == 0


def test_an_order_depends_on_seed_and_epoch_only():
    weights = balancing_weights(LABELS)
    orders = [
        balanced_order(weights, SHARDS, seed=seed, epoch=epoch)[0].tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == balanced_order(weights, SHARDS, 0, 0)[0].tolist()
    assert len({tuple(order) for order in orders}) == 3


def test_draws_of_a_clip_are_numbered_in_their_order():
    drawn, number = balanced_order(balancing_weights(LABELS), SHARDS, 0, 0)
    assert len(drawn) == len(number) == 100
    for clip in np.unique(drawn):
        numbers = number[drawn == clip]
        assert numbers.tolist() == list(range(len(numbers)))
    assert number.max() > 3


def test_an_epoch_reads_near_a_few_shards():
    drawn, _ = balanced_order(np.ones(4000), np.arange(4000) // 100, 0, 0)
    shards = drawn // 100
    assert max(len(np.unique(shards[i : i + 100])) for i in range(0, 4000, 100)) <= 8
