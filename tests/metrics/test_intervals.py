"""Intervals and paired tests against draws that copy rows, and against theory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.metrics import intervals as module
from clip4vla.metrics.intervals import Median, intervals, mean, paired


@st.composite
def rows(draw):
    clips = draw(st.integers(1, 6))
    clip = list(range(clips)) + draw(st.lists(st.integers(0, clips - 1), max_size=8))
    values = st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=len(clip), max_size=len(clip))
    return np.array(clip), np.array(draw(values)), np.array(draw(values))


def statistics(clip, values):
    return {"mean": mean(values, clip), "median": Median(values, clip)}


def copied(clip, values, weights):
    """Repeat each row as often as its clip was drawn."""
    return np.concatenate([np.repeat(values[clip == c], n) for c, n in enumerate(weights)])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows(), st.integers(1, 9))
def test_draws_equal_copies_of_the_rows(problem, part):
    """Compare weighted metrics with numpy on copied rows, in blocks of any size."""
    clip, first, second = problem
    clips = clip.max() + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 20)
        patch.setattr(module, "WEIGHTS", part * clips)
        draws = np.concatenate(list(module._draws(clips)))
        swaps = np.concatenate(list(module._exchanges(clips)))
        found = intervals(statistics(clip, first), clips)
        compared = paired(statistics(clip, first), statistics(clip, second), clips)
    assert draws.shape == swaps.shape == (20, clips)
    assert (draws.sum(axis=1) == clips).all()
    for name, score in (("mean", np.mean), ("median", np.median)):
        of_first, of_second = (
            np.array([score(copied(clip, values, w.astype(int))) for w in draws])
            for values in (first, second)
        )
        assert found[name] == pytest.approx(np.percentile(of_first, [2.5, 97.5]).tolist())
        result = compared[name]
        gap = score(second) - score(first)
        assert (result.first, result.second) == pytest.approx((score(first), score(second)))
        assert result.difference == pytest.approx(gap)
        ends = np.percentile(of_second - of_first, [2.5, 97.5])
        assert result.interval == pytest.approx(ends.tolist())
        exchanged = [
            score(np.where(s[clip] == 1, first, second))
            - score(np.where(s[clip] == 1, second, first))
            for s in swaps
        ]
        extreme = sum(abs(x) >= abs(gap) - 1e-9 for x in exchanged)
        assert result.p == pytest.approx((1 + extreme) / 21)


def test_the_draws_do_not_depend_on_the_blocks_they_come_in(monkeypatch):
    whole = np.concatenate(list(module._draws(7)))
    swaps = np.concatenate(list(module._exchanges(7)))
    monkeypatch.setattr(module, "WEIGHTS", 7 * 13)
    assert (np.concatenate(list(module._draws(7))) == whole).all()
    assert (np.concatenate(list(module._exchanges(7))) == swaps).all()


def test_an_interval_equals_theory_and_clips_are_drawn_not_queries():
    """Half of 400 answers are right: 1.96 sqrt(p (1 - p) / C) each way; copies add nothing."""
    values = np.repeat([0.0, 100.0], 200)
    low, high = intervals({"x": mean(values, np.arange(400))}, 400)["x"]
    assert (low, high) == pytest.approx((45.1, 54.9), abs=0.4)
    five = np.repeat(values, 5), np.repeat(np.arange(400), 5)
    assert intervals({"x": mean(*five)}, 400)["x"] == [low, high]


@pytest.mark.parametrize("kind", [mean, Median])
def test_clips_are_exchanged_where_the_mask_is_one(kind):
    clip, first, second = np.arange(3), np.array([1.0, 2.0, 9.0]), np.array([3.0, 5.0, 4.0])
    one, two = kind(first, clip), kind(second, clip)
    swap = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    score = np.mean if kind is mean else np.median
    wanted = [score(second) - score(first), score(first) - score(second)]
    wanted.append(score([3.0, 5.0, 9.0]) - score([1.0, 2.0, 4.0]))
    assert one.exchanged(two, swap).tolist() == pytest.approx(wanted)


def test_a_paired_test_detects_differences_within_both_intervals():
    """The same hard and easy clips; one in ten answers is better: small, but always one way."""
    rng = np.random.default_rng(3)
    first = rng.integers(1, 500, size=300).astype(float)
    second = first - (np.arange(300) % 10 == 0)
    clip = np.arange(300)
    alone = [intervals({"x": mean(x, clip)}, 300)["x"] for x in (first, second)]
    assert alone[0][0] < alone[1][1]  # they overlap
    found = paired({"x": mean(first, clip)}, {"x": mean(second, clip)}, 300)["x"]
    assert found.difference == pytest.approx(-0.1)
    assert found.interval[1] < 0 and found.p < 0.001
    same = paired({"x": mean(first, clip)}, {"x": mean(first, clip)}, 300)["x"]
    assert (same.difference, same.interval, same.p) == (0.0, [0.0, 0.0], 1.0)


def test_the_p_of_equal_runs_is_uniform(monkeypatch):
    """Of 60 comparisons of runs that differ by chance alone, about one in ten has p < 0.1."""
    monkeypatch.setattr(module, "RESAMPLES", 200)
    rng, clip, small = np.random.default_rng(5), np.arange(60), 0
    for _ in range(60):
        one, two = (mean(rng.integers(0, 2, 60).astype(float), clip) for _ in range(2))
        small += paired({"x": one}, {"x": two}, 60)["x"].p < 0.1
    assert 1 <= small <= 13
