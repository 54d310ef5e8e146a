"""Metrics of tagging against scikit-learn, and their draws against brute force."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from clip4vla.common.errors import UserError
from clip4vla.metrics import intervals as intervals_module
from clip4vla.metrics.intervals import paired
from clip4vla.metrics.tagging import MeanPrecision, class_scores, d_prime, report_tagging

VALUES = [-1e30, -2.0, -0.0, 0.0, 1e-45, 0.5, 0.5 + 2**-24, 1.0, 1e30]


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def named(targets):
    return names("class", targets.shape[1]), names("clip", len(targets))


@st.composite
def problems(draw):
    """Targets bool and scores [N, C], with ties, absent classes and classes of every clip."""
    n, c = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    cells = st.lists(st.booleans(), min_size=n * c, max_size=n * c)
    values = st.sampled_from(VALUES) if draw(st.booleans()) else st.floats(-3, 3, width=32)
    scores = st.lists(values, min_size=n * c, max_size=n * c)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return (
        np.array(draw(cells)).reshape(n, c),
        np.array(draw(scores), dtype=dtype).reshape(n, c),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems())
def test_every_class_equals_scikit_learn(problem):
    targets, scores = problem
    found = class_scores(targets, scores, *named(targets))
    assert found.positives.tolist() == targets.sum(axis=0).tolist()
    for c, (target, score) in enumerate(zip(targets.T, scores.T, strict=True)):
        precision, auc = np.nan, np.nan
        if target.any():
            precision = average_precision_score(target, score)
        if target.any() and not target.all():
            auc = roc_auc_score(target, score)
        assert found.average_precision[c] == pytest.approx(precision, abs=1e-12, nan_ok=True)
        assert found.auc[c] == pytest.approx(auc, abs=1e-12, nan_ok=True)


def test_a_large_problem_equals_scikit_learn():
    rng = np.random.default_rng(2)
    targets = rng.random((3000, 11)) < np.linspace(0.001, 0.6, 11)
    scores = (rng.normal(size=targets.shape) + targets).round(1).astype(np.float32)
    found = class_scores(targets, scores, *named(targets))
    assert found.average_precision == pytest.approx(
        average_precision_score(targets, scores, average=None), abs=1e-12
    )
    assert found.auc == pytest.approx(roc_auc_score(targets, scores, average=None), abs=1e-12)


def test_classes_without_positives_are_left_out_and_counted():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]], dtype=bool)
    scores = np.array([[3, 9, 1], [2, 9, 1], [1, 9, 1], [0, 9, 1]], dtype=float)
    found = report_tagging(targets, scores, *named(targets))
    assert found.stated["metrics"] == pytest.approx({"mAP": 50 * ((1 + 2 / 3) / 2 + 1), "mAUC": 75})
    counts = {"counted": 2, "without_positives": 1, "d_prime": d_prime(0.75)}
    assert found.stated["classes"] == counts
    table = {name: column.tolist() for name, column in found.by_class.items()}
    assert table["class"] == ["class0", "class1", "class2"]
    assert table["positives"] == [2, 0, 4]
    assert table["AP"] == pytest.approx([250 / 3, np.nan, 100], nan_ok=True)
    assert table["AUC"] == pytest.approx([75, np.nan, np.nan], nan_ok=True)
    json.dumps(found.stated, allow_nan=False)


@pytest.mark.parametrize(("target", "metrics"), [(0, {}), (1, {"mAP": 100.0})])
def test_a_metric_that_no_class_has_is_not_stated(target, metrics):
    targets = np.full((3, 2), target, dtype=bool)
    stated = report_tagging(targets, np.zeros((3, 2)), *named(targets)).stated
    assert stated["metrics"] == metrics and stated["intervals"].keys() == metrics.keys()
    assert "d_prime" not in stated["classes"]


def test_perfect_scores_have_no_d_prime():
    targets = np.eye(3, dtype=bool)
    stated = report_tagging(targets, np.eye(3), *named(targets)).stated
    assert stated["metrics"] == {"mAP": 100.0, "mAUC": 100.0}
    assert stated["classes"] == {"counted": 3, "without_positives": 0}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_clip_and_class(value):
    scores = np.zeros((3, 2), dtype=np.float32)
    scores[2, 1] = value
    with pytest.raises(UserError, match="clip clip2, class class1: the score is not finite.*Fix:"):
        report_tagging(scores == 0, scores, *named(scores))


def brute_force(targets, scores, weights):
    """Return mAP of one draw from its definition, clip by clip."""
    precisions = []
    for target, score in zip(targets.T, scores.T, strict=True):
        total = 0.0
        for clip in np.flatnonzero(target):
            least = score >= score[clip]
            least[clip] = False
            hits, clips = (weights * least * target).sum(), (weights * least).sum()
            total += weights[clip] * (hits + 1) / (clips + 1)
        if (weights * target).any():
            precisions.append(total / (weights * target).sum())
    return 100.0 * np.mean(precisions) if precisions else 0.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    problems(), st.integers(1, 9), st.sampled_from([1, 30_000]), st.randoms(use_true_random=False)
)
def test_draws_equal_their_definition(problem, draws, most, random):
    """Weights so large that a word of 64 bits holds four draws or only two."""
    targets, scores = problem
    weights = [[random.choice([0, 1, 2, 5]) * most for _ in targets] for _ in range(draws)]
    weights = np.array(weights, dtype=float)
    found = MeanPrecision(targets, scores).drawn(weights)
    expected = [brute_force(targets, scores, row) for row in weights]
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.randoms(use_true_random=False))
def test_exchanged_clips_equal_scikit_learn_on_the_mixed_scores(problem, random):
    targets, first = problem
    second = first[:, ::-1] * 0.5
    swap = np.array([[random.randint(0, 1) for _ in targets] for _ in range(5)], dtype=float)
    found = MeanPrecision(targets, first).exchanged(MeanPrecision(targets, second), swap)
    for row, difference in zip(swap, found, strict=True):
        moved = row[:, None] == 1
        mixed = np.where(moved, second, first), np.where(moved, first, second)
        one, two = (
            class_scores(targets, scores, *named(targets)).average_precision for scores in mixed
        )
        expected = np.nanmean(two - one) if targets.any() else 0.0
        assert difference == pytest.approx(100.0 * expected, abs=1e-9)


def test_an_interval_covers_the_expected_value_and_has_the_estimate_in_its_middle(monkeypatch):
    """50 samples of 400 clips; a draw is not better than its sample only by holding copies."""
    monkeypatch.setattr(intervals_module, "RESAMPLES", 200)
    rng, prevalence = np.random.default_rng(4), np.linspace(0.05, 0.2, 6)
    estimates, ends = np.empty(50), np.empty((50, 2))
    for i in range(50):
        targets = rng.random((400, 6)) < prevalence
        scores = rng.normal(size=targets.shape) + 1.5 * targets
        stated = report_tagging(targets, scores, *named(targets)).stated
        estimates[i], ends[i] = stated["metrics"]["mAP"], stated["intervals"]["mAP"]
    low, high = ends.T
    assert ((low <= estimates.mean()) & (estimates.mean() <= high)).sum() >= 43
    assert 0.4 < ((estimates - low) / (high - low)).mean() < 0.6


def test_a_better_run_is_found_and_equal_runs_are_not():
    rng = np.random.default_rng(5)
    targets = rng.random((300, 5)) < 0.2
    scores = rng.normal(size=targets.shape)
    worse, better = MeanPrecision(targets, scores), MeanPrecision(targets, scores + 0.3 * targets)
    found = paired({"mAP": worse}, {"mAP": better}, len(targets))["mAP"]
    assert found.difference > 0 and found.interval[0] > 0 and found.p < 0.001
    same = paired({"mAP": worse}, {"mAP": worse}, len(targets))["mAP"]
    assert (same.difference, same.interval, same.p) == (0.0, [0.0, 0.0], 1.0)
