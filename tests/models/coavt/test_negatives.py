"""Negatives are never of the same clip, follow their weights, and do not depend on the order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.models.coavt.losses import ContrastLogits
from clip4vla.models.coavt.negatives import dice_of, draw_negatives, negative_weights
from clip4vla.models.common.batch_features import numbers_of


def batch(clips, seed, spread=5.0):
    """Logits, clip numbers, sample numbers and dice of pairs of these clips, each with a caption."""
    generator = torch.Generator().manual_seed(seed)
    by_clip = spread * torch.randn(len(clips), len(clips), generator=generator)
    names = [f"clip{clip}" for clip in clips]
    samples = [f"{name} caption {row}" for row, name in enumerate(names)]
    logits = ContrastLogits(by_clip, by_clip.T)
    return logits, numbers_of(names), numbers_of(samples), dice_of(samples, "av", seed)


BATCHES = st.lists(st.integers(0, 4), min_size=2, max_size=9).filter(lambda x: len(set(x)) > 1)

SPREADS = st.sampled_from([0.0, 5.0, 1e4])


@settings(max_examples=100, deadline=None)
@given(clips=BATCHES, seed=st.integers(0, 1000), spread=SPREADS)
def test_a_negative_is_of_another_clip(clips, seed, spread):
    """Even where the true pair is far likelier, or all others have no chance in float32."""
    for drawn in draw_negatives(*batch(clips, seed, spread)):
        assert drawn.dtype == torch.int64
        assert all(clips[other] != clips[row] for row, other in enumerate(drawn.tolist()))


@settings(max_examples=100, deadline=None)
@given(clips=BATCHES, seed=st.integers(0, 1000), spread=SPREADS, data=st.data())
def test_the_order_of_samples_does_not_matter(clips, seed, spread, data):
    logits, *rows = batch(clips, seed, spread)
    order = torch.tensor(data.draw(st.permutations(range(len(clips)))))
    shuffled = ContrastLogits(*(x[order][:, order] for x in logits))
    plain = draw_negatives(logits, *rows)
    again = draw_negatives(shuffled, *(x[order] for x in rows))
    for before, after in zip(plain, again, strict=True):
        assert torch.equal(order[after], before[order])


def test_seed_alignment_and_samples_change_the_draws():
    logits, numbers, samples, _ = batch(list(range(40)), seed=1, spread=0.1)
    texts = [f"a caption {row}" for row in range(40)]
    first = draw_negatives(logits, numbers, samples, dice_of(texts, "av", 1))
    others = dice_of(texts, "av", 2), dice_of(texts, "a", 1), dice_of(texts[::-1], "av", 1)
    for dice in others:
        again = draw_negatives(logits, numbers, samples, dice)
        assert all((x != y).any() for x, y in zip(first, again, strict=True))
    alike = ContrastLogits(logits.clip_to_text, logits.clip_to_text)
    one, other = draw_negatives(alike, numbers, samples, dice_of(texts, "av", 1))
    assert not one.equal(other)  # the two directions are drawn apart


def test_dice_are_uniform_and_bound_to_their_samples():
    texts = [f"a caption {row}" for row in range(4000)]
    dice = dice_of(texts, "av", 1)
    assert dice.dtype == torch.float64 and torch.equal(dice_of(texts[7:9], "av", 1), dice[7:9])
    assert dice.min() >= 0 and dice.max() < 1 and (dice[:, 0] != dice[:, 1]).all()
    for column in dice.unbind(1):  # a twentieth of 4000 has a standard deviation of 14
        counts = torch.histc(column.float(), bins=20, min=0, max=1)
        assert (counts - 200).abs().max() < 4.5 * 14


@pytest.mark.parametrize("dice", [0.0, 1 - 2**-53])
def test_the_ends_of_a_row_can_be_drawn(dice):
    """The true pair is the first or the last candidate, and has weight zero."""
    logits, numbers, samples, _ = batch(list(range(6)), seed=1, spread=0.1)
    drawn = draw_negatives(logits, numbers, samples, torch.full((6, 2), dice, dtype=torch.float64))
    first, second, *_ = samples.argsort(descending=dice > 0).tolist()
    expected = [second if row == first else first for row in range(6)]
    assert all(x.tolist() == expected for x in drawn)


def test_frequencies_are_near_the_weights():
    clips = [0, 0, 1, 2, 3]
    logits, numbers, samples, _ = batch(clips, seed=3, spread=1.0)
    same = numbers[:, None] == numbers
    weights = [
        negative_weights(x, same).numpy() for x in (logits.text_to_clip, logits.clip_to_text)
    ]
    draws, rows = 4000, np.arange(5)
    found = [np.zeros((5, 5)), np.zeros((5, 5))]
    for seed in range(draws):
        dice = dice_of([f"a caption {row}" for row in rows], "av", seed)
        negatives = draw_negatives(logits, numbers, samples, dice)
        for counts, drawn in zip(found, negatives, strict=True):
            counts[rows, drawn.numpy()] += 1
    for counts, expected in zip(found, weights, strict=True):
        sigma = np.sqrt(expected * (1 - expected) / draws)
        assert (np.abs(counts / draws - expected) <= 4.5 * sigma + 1e-12).all()


def test_shapes_without_values_have_negatives():
    """For a plan of the cost."""
    logits, *rows = batch([1, 1, 2], seed=1)
    on_meta = ContrastLogits(*(x.to("meta") for x in logits))
    found = draw_negatives(on_meta, *rows)
    assert all(x.tolist() == [2, 2, 0] for x in found)
