"""Ranks and recalls: the reference's numbers, a worked example, brute force."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.errors import UserError
from clip4vla.evaluation.retrieval import blocks_of, rank_metrics, retrieval_ranks

HERE = Path(__file__).parents[1]
REFERENCE = Path(os.environ.get("CLIP4VLA_REFERENCE", HERE / "parity" / "reference"))


def names(n):
    return [f"clip{i}" for i in range(n)]


def ranks_of(similarity, targets, block=2):
    similarity, targets = np.asarray(similarity, dtype=np.float32), np.asarray(targets)
    return retrieval_ranks(blocks_of(similarity, block), targets, names(similarity.shape[1]))


@pytest.mark.parametrize(("key", "place"), [("metric_t2v", 0), ("metric_v2t", 1)])
def test_metrics_equal_the_reference(key, place):
    vectors = np.load(REFERENCE / "vectors.npz")
    similarity = vectors["metric_sims"]
    ranks = ranks_of(similarity, np.arange(len(similarity)), block=64)[place]
    found = rank_metrics(ranks, "x")
    r1, r5, r10, median = vectors[key]
    assert [found["x_R1"], found["x_R5"], found["x_R10"]] == pytest.approx(
        [100 * r1, 100 * r5, 100 * r10]
    )
    assert found["x_MedR"] == median


def test_the_example_of_the_released_tie_rule():
    to_clip, _, best = ranks_of([[3, 3, 1], [0, 5, 2], [4, 4, 4]], [0, 1, 2])
    assert to_clip.tolist() == [1.5, 1.0, 2.0]
    found = rank_metrics(to_clip, "t2v")
    assert found["t2v_R1"] == pytest.approx(100 / 3)
    assert (found["t2v_R5"], found["t2v_MedR"], found["t2v_MeanR"]) == (100.0, 1.5, 1.5)
    assert best.tolist() == [[0, 1, 2], [1, 2, 0], [0, 1, 2]]


def test_a_clip_counts_its_best_caption_against_those_of_others():
    similarity = [[1, 9], [8, 2], [5, 7], [6, 3]]  # captions 0, 1 belong to clip 0
    to_clip, to_text, _ = ranks_of(similarity, [0, 0, 1, 1])
    assert to_clip.tolist() == [2, 1, 1, 2]
    assert to_text.tolist() == [1, 2]  # clip 0: caption 1 is first; clip 1: caption 0 beats its 7


@st.composite
def problems(draw):
    clips = draw(st.integers(1, 5))
    targets = list(range(clips)) + draw(st.lists(st.integers(0, clips - 1), max_size=5))
    values = st.lists(st.integers(-2, 2), min_size=clips, max_size=clips)
    rows = draw(st.lists(values, min_size=len(targets), max_size=len(targets)))
    return rows, targets, draw(st.integers(1, 4))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems())
def test_ranks_equal_brute_force(problem):
    rows, targets, block = problem
    to_clip, to_text, _ = ranks_of(rows, targets, block)
    for row, target, rank in zip(rows, targets, to_clip, strict=True):
        best = 1 + sum(value > row[target] for value in row)
        worst = best + sum(value == row[target] for value in row) - 1
        assert rank == (best + worst) / 2
    for clip, rank in enumerate(to_text):
        own = max(row[clip] for row, target in zip(rows, targets, strict=True) if target == clip)
        others = [row[clip] for row, target in zip(rows, targets, strict=True) if target != clip]
        best = 1 + sum(value > own for value in others)
        worst = best + sum(value == own for value in others)
        assert rank == (best + worst) / 2


def test_a_similarity_that_is_not_finite_names_the_clip():
    with pytest.raises(UserError, match=r"clip clip1 and caption 2 \(of clip clip0\)"):
        ranks_of([[1, 2], [3, 4], [5, np.nan]], [0, 1, 0])
