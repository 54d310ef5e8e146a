"""Negatives are never of the same clip, follow their weights, and do not depend on the order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.losses import ContrastLogits
from clip4vla.models.coavt.negatives import draw_negatives, negative_weights
from clip4vla.models.common.batch_features import numbers_of


def batch(clips, seed, spread=5.0):
    """Logits, clip numbers and sample numbers of pairs of these clips, with captions of their own."""
    generator = torch.Generator().manual_seed(seed)
    by_clip = spread * torch.randn(len(clips), len(clips), generator=generator)
    names = [f"clip{clip}" for clip in clips]
    samples = numbers_of([f"{name} caption {row}" for row, name in enumerate(names)])
    return ContrastLogits(by_clip, by_clip.T), numbers_of(names), samples


BATCHES = st.lists(st.integers(0, 4), min_size=2, max_size=9).filter(lambda x: len(set(x)) > 1)


@settings(max_examples=100, deadline=None)
@given(clips=BATCHES, seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 5.0, 1e4]))
def test_a_negative_is_of_another_clip(clips, seed, spread):
    """Even where the true pair is far likelier, or all others have no chance in float32."""
    logits, numbers, samples = batch(clips, seed, spread)
    for drawn in draw_negatives(logits, numbers, samples, seed):
        assert drawn.dtype == torch.int64
        assert all(clips[other] != clips[row] for row, other in enumerate(drawn.tolist()))


@settings(max_examples=100, deadline=None)
@given(clips=BATCHES, seed=st.integers(0, 1000), data=st.data())
def test_the_order_of_samples_does_not_matter(clips, seed, data):
    logits, numbers, samples = batch(clips, seed)
    order = torch.tensor(data.draw(st.permutations(range(len(clips)))))
    shuffled = ContrastLogits(*(x[order][:, order] for x in logits))
    plain = draw_negatives(logits, numbers, samples, seed)
    again = draw_negatives(shuffled, numbers[order], samples[order], seed)
    for before, after in zip(plain, again, strict=True):
        assert torch.equal(order[after], before[order])


def test_seed_and_samples_change_the_draws():
    logits, numbers, samples = batch(list(range(40)), seed=1, spread=0.1)
    first = draw_negatives(logits, numbers, samples, seed=1)
    for seed, others in ((2, samples), (1, samples ^ 1)):
        again = draw_negatives(logits, numbers, others, seed)
        assert all((x != y).any() for x, y in zip(first, again, strict=True))
    assert not torch.equal(*first)  # the two directions are drawn apart


def test_frequencies_are_near_the_weights():
    clips = [0, 0, 1, 2, 3]
    logits, numbers, samples = batch(clips, seed=3, spread=1.0)
    same = numbers[:, None] == numbers
    weights = [
        negative_weights(x, same).numpy() for x in (logits.text_to_clip, logits.clip_to_text)
    ]
    draws, rows = 4000, np.arange(5)
    found = [np.zeros((5, 5)), np.zeros((5, 5))]
    for seed in range(draws):
        for counts, drawn in zip(
            found, draw_negatives(logits, numbers, samples, seed), strict=True
        ):
            counts[rows, drawn.numpy()] += 1
    for counts, expected in zip(found, weights, strict=True):
        sigma = np.sqrt(expected * (1 - expected) / draws)
        assert (np.abs(counts / draws - expected) <= 4.5 * sigma + 1e-12).all()


def test_one_clip_has_no_negatives():
    logits, numbers, samples = batch([3, 3, 3], seed=1)
    with pytest.raises(UserError) as error:
        draw_negatives(logits, numbers, samples, seed=1)
    assert str(error.value) == (
        "optimiser.batch_size: all 3 samples of a batch are of one clip, so that matching has no "
        "negatives. Fix: raise it"
    )


def test_shapes_without_values_have_negatives():
    """For a plan of the cost."""
    logits, numbers, samples = batch([1, 1, 2], seed=1)
    on_meta = ContrastLogits(*(x.to("meta") for x in logits))
    found = draw_negatives(on_meta, numbers, samples, seed=1)
    assert all(x.tolist() == [2, 2, 0] for x in found)
