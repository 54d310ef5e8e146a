"""Candidates by the first scores, ranked by the second ones: against sorting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip4vla.common.errors import UserError
from clip4vla.metrics.rescoring import candidates, candidates_first
from clip4vla.metrics.text_clip import rank_columns, report_retrieval, rescored_by

IDS = ["a", "b", "c", "d"]
FIRST = np.array([[9, 8, 2, 1], [1, 7, 7, 3], [4, 3, 2, 1]], np.float32)
SECOND = np.array([[1, 2, 8, 9], [0, 4, 5, 9], [3, 3, 9, 9]], np.float32)
TARGETS = np.array([0, 1, 2])


def rescored(top, second=SECOND, first=FIRST, targets=TARGETS):
    asked = []

    def scores(wanted):
        asked.append(wanted)
        return np.where(wanted, second, np.nan)

    return rescored_by(first, targets, IDS[: first.shape[1]], top, scores), asked[0]


def test_candidates_are_the_first_of_each_row_and_all_equals_of_the_last():
    assert candidates(FIRST, 2).tolist() == [
        [True, True, False, False],
        [False, True, True, False],
        [True, True, False, False],
    ]
    assert candidates(FIRST, 1)[1].tolist() == [False, True, True, False]
    assert candidates(FIRST, 9).all()


def test_only_candidates_are_scored_again_and_others_keep_their_order():
    found, asked = rescored(2)
    by_text, by_clip = candidates(FIRST, 2), candidates(FIRST.T, 2).T
    assert (asked == (by_text | by_clip)).all() and not asked.all()
    assert np.argsort(-found.to_clip, axis=1, kind="stable").tolist() == [
        [1, 0, 2, 3],
        [2, 1, 3, 0],
        [0, 1, 2, 3],  # a and b are equal by the second score, and so in order
    ]
    assert found.to_clip[2, 0] == found.to_clip[2, 1]
    # of clip a the texts 0 and 2 are candidates, the second score of 2 is larger; of b 1 and 0
    assert np.argsort(-found.to_text[:, 0], kind="stable").tolist() == [2, 0, 1]
    assert np.argsort(-found.to_text[:, 1], kind="stable").tolist() == [1, 0, 2]


def test_both_directions_are_ranked_by_their_own_candidates():
    found, _ = rescored(2)
    report = report_retrieval({"t_v": FIRST}, TARGETS, IDS, ["vision"], rescored=found)
    columns = rank_columns(report, TARGETS)
    assert columns["rank"].tolist() == [2, 2, 3] and report.best[0].tolist() == [1, 0, 2, 3]
    assert columns["text_rank"].tolist() == [2, 1, 1]
    assert report.stated["metrics"]["t2v_R1"] == 0
    plain = report_retrieval({"t_v": FIRST}, TARGETS, IDS, ["vision"])
    assert plain.to_clip.expected.tolist() == [1, 1.5, 3]
    dual = "dual_softmax"  # of the first scores
    assert report.stated["extras"][dual] == plain.stated["extras"][dual]


numbers = st.integers(0, 4)


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_ranks_equal_those_of_sorted_pairs(data, n_texts, n_clips, top):
    def matrix():
        row = st.lists(numbers, min_size=n_clips, max_size=n_clips)
        rows = data.draw(st.lists(row, min_size=n_texts, max_size=n_texts))
        return np.array(rows, np.float32)

    first, second = matrix(), matrix()
    chosen = candidates(first, top)
    order = candidates_first(first, second, chosen)
    for one, two, is_candidate, places in zip(first, second, chosen, order, strict=True):
        least = sorted(one, reverse=True)[:top][-1]
        assert is_candidate.tolist() == [bool(x >= least) for x in one]
        keys = [(1, y) if yes else (0, x) for x, y, yes in zip(one, two, is_candidate, strict=True)]
        for i in range(n_clips):
            for j in range(n_clips):
                assert (places[i] > places[j]) == (keys[i] > keys[j])


def test_scores_that_differ_little_stay_apart():
    first = np.array([[1e30, -1e30, 1e-30, 2e-30]], np.float32)
    second = np.array([[1e-38, 2e-38, 0, 0]], np.float32)
    order = candidates_first(first, second, np.array([[True, True, False, False]]))
    assert np.argsort(-order[0]).tolist() == [1, 0, 3, 2]


def test_a_second_score_that_is_not_finite_names_the_clip():
    broken = SECOND.copy()
    broken[0, 1] = np.nan
    with pytest.raises(UserError, match="clip b and query 0 .*not finite"):
        rescored(2, broken)
    broken[0, 1], broken[0, 3] = 2, np.inf  # no candidate of either direction
    assert not rescored(1)[1][0, 3]
    rescored(1, broken)
