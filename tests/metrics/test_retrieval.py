"""Ranks and recalls against the reference, a worked example and brute force over every order."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.common.errors import UserError
from clip4vla.inference import gallery
from clip4vla.inference.gallery import Remade, compared, ranked
from clip4vla.metrics import retrieval
from clip4vla.metrics.recalls import (
    RECALLS,
    hit_chance,
    rank_bounds,
    rank_metrics,
    released_metrics,
    tied_places,
)
from clip4vla.metrics.rescoring import dual_softmax, reranked
from clip4vla.metrics.retrieval import QueryRanks, best_columns, retrieval_ranks
from clip4vla.metrics.text_clip import among, report_retrieval
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.scorer import PooledScorer
from clip4vla.models.common.similarity import similarities

HERE = Path(__file__).parents[1]
REFERENCE = Path(os.environ.get("CLIP4VLA_REFERENCE", HERE / "parity" / "reference"))
EXAMPLE = [[3, 3, 1], [0, 5, 2], [4, 4, 4]]  # facts 7.6
ONE_THIRD = 100.0 * float(np.mean([0, 1, 0]))


def names(n):
    return [f"clip{i}" for i in range(n)]


def ranks_of(similarity, targets, top=5):
    similarity, targets = np.asarray(similarity, dtype=np.float32), np.asarray(targets)
    return retrieval_ranks(similarity, targets, names(similarity.shape[1]), top)


@pytest.mark.parametrize("metrics_of", [rank_metrics, released_metrics])
@pytest.mark.parametrize(("key", "place"), [("metric_t2v", 0), ("metric_v2t", 1)])
def test_metrics_equal_the_reference(key, place, metrics_of):
    """Its similarities have no ties, so the released rule and ours agree."""
    vectors = np.load(REFERENCE / "vectors.npz")
    similarity = vectors["metric_sims"]
    ranks = ranks_of(similarity, np.arange(len(similarity)))[place]
    found = metrics_of(ranks, "x")
    r1, r5, r10, median = vectors[key]
    assert [found["x_R1"], found["x_R5"], found["x_R10"]] == pytest.approx(
        [100 * r1, 100 * r5, 100 * r10]
    )
    assert found["x_MedR"] == median
    assert rank_bounds(ranks, "x") == {}


def test_the_example_of_the_released_tie_rule():
    to_clip, _, best = ranks_of(EXAMPLE, [0, 1, 2])
    released = released_metrics(to_clip, "t2v")
    assert released["t2v_R1"] == ONE_THIRD and released["t2v_R5"] == 100.0
    assert released["t2v_MedR"] == 1.5
    assert to_clip.expected.tolist() == [1.5, 1.0, 2.0]
    # Ours: the first query is right every other time, the third every third time.
    ours = rank_metrics(to_clip, "t2v")
    assert ours["t2v_R1"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 3) / 3)
    assert (ours["t2v_R5"], ours["t2v_MedR"], ours["t2v_MeanR"]) == (100.0, 1.5, 1.5)
    bounds = rank_bounds(to_clip, "t2v")
    assert bounds["t2v_R1"] == pytest.approx([100 / 3, 100.0])
    assert (bounds["t2v_MedR"], "t2v_R5" in bounds) == ([2.0, 1.0], False)
    assert best.tolist() == [[0, 1, 2], [1, 2, 0], [0, 1, 2]]


def test_every_place_of_a_tie_counts_as_an_answer():
    """CAV-MAE's rule: the places are 1, 2 (a tie of two), 1, and 1, 2, 3 (a tie of three)."""
    to_clip, _, _ = ranks_of(EXAMPLE, [0, 1, 2])
    found = tied_places(to_clip, "a2v")
    assert found["a2v_R1"] == pytest.approx(100 * 3 / 6) and found["a2v_R5"] == 100.0
    assert (found["a2v_MedR"], found["a2v_MeanR"]) == (1.5, pytest.approx(10 / 6))


def test_without_ties_every_rule_says_the_same():
    similarity = np.random.default_rng(0).permutation(144).reshape(12, 12)
    for ranks in ranks_of(similarity, np.arange(12))[:2]:
        assert tied_places(ranks, "x") == released_metrics(ranks, "x") == rank_metrics(ranks, "x")


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_the_released_rule_counts_half_a_place_behind_k_but_for_the_first(k):
    """Two ties at places k and k + 1 have place k + 1/2, three at k to k + 2 have place k + 1."""
    best, worst = np.array([k, k]), np.array([k + 1, k + 2])
    found = released_metrics(QueryRanks(best, worst, np.ones(2, dtype=int)), "x")
    assert found[f"x_R{k}"] == (0.0 if k == 1 else 50.0)
    assert found["x_MedR"] == found["x_MeanR"] == k + 0.75


def test_equal_scores_for_all_clips_are_at_chance():
    to_clip, to_text, _ = ranks_of(np.zeros((200, 200)), np.arange(200))
    for ranks in (to_clip, to_text):
        found = rank_metrics(ranks, "x")
        assert [found[f"x_R{k}"] for k in RECALLS] == pytest.approx([0.5, 2.5, 5.0, 25.0])
        assert found["x_MedR"] == found["x_MeanR"] == 100.5
    # The released rule gives no recall at all.
    assert released_metrics(to_clip, "x")["x_R50"] == 0.0


def test_a_clip_counts_its_best_caption_against_those_of_others():
    similarity = [[1, 9], [8, 2], [5, 7], [6, 3]]  # captions 0, 1 belong to clip 0
    to_clip, to_text, _ = ranks_of(similarity, [0, 0, 1, 1])
    assert to_clip.expected.tolist() == [2, 1, 1, 2]
    # Clip 0: caption 1 is first; clip 1: caption 0 beats its 7.
    assert to_text.expected.tolist() == [1, 2]


@st.composite
def problems(draw):
    """Generate queries with their clips (some clips have none) and few distinct similarities."""
    clips = draw(st.integers(1, 5))
    asked = draw(st.integers(1, clips))
    targets = list(range(asked)) + draw(st.lists(st.integers(0, asked - 1), max_size=4))
    targets = draw(st.permutations(targets))
    values = st.lists(st.integers(-2, 2), min_size=clips, max_size=clips)
    rows = draw(st.lists(values, min_size=len(targets), max_size=len(targets)))
    return rows, targets, draw(st.integers(1, 20)), draw(st.integers(1, 6))


def places(own, others):
    """Place of the first right answer in every order of equals: all of `own`'s best with others."""
    best = max(own)
    ahead = sum(value > best for value in others)
    equal = [True] * own.count(best) + [False] * sum(value == best for value in others)
    return [1 + ahead + order.index(True) for order in set(itertools.permutations(equal))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_ranks_and_recalls_equal_brute_force(problem):
    rows, targets, cells, top = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "CELLS", cells)
        to_clip, to_text, best = ranks_of(rows, targets, top)
    expected = [
        places([row[t]], [value for i, value in enumerate(row) if i != t])
        for row, t in zip(rows, targets, strict=True)
    ]
    check(to_clip, expected)
    expected = []
    for clip in sorted(set(targets)):
        own = [row[clip] for row, t in zip(rows, targets, strict=True) if t == clip]
        others = [row[clip] for row, t in zip(rows, targets, strict=True) if t != clip]
        expected.append(places(own, others))
    check(to_text, expected)
    for row, found in zip(rows, best, strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        assert found.tolist() == order[:top]


def check(ranks, expected):
    """Compare ranks with all equally likely places of every answer."""
    assert ranks.expected.tolist() == pytest.approx([np.mean(p) for p in expected])
    assert ranks.best.tolist() == [min(p) for p in expected]
    assert ranks.worst.tolist() == [max(p) for p in expected]
    for k in RECALLS:
        chances = [np.mean([place <= k for place in p]) for p in expected]
        assert hit_chance(ranks, k).tolist() == pytest.approx(chances)


def test_long_rows_are_counted_like_short_ones():
    """2.1 million cells are compared in nine pieces."""
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 40, size=(700, 3000)).astype(np.float32)
    targets = rng.integers(0, 3000, size=700)
    to_clip, to_text, best = ranks_of(similarity, targets, top=7)
    own = similarity[np.arange(700), targets][:, None]
    assert (to_clip.best == 1 + (similarity > own).sum(1)).all()
    assert (to_clip.worst == (similarity >= own).sum(1)).all()
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :7]
    assert (best == order).all()
    for place, clip in enumerate(np.unique(targets)):
        mine = targets == clip
        limit = similarity[mine, clip].max()
        assert to_text.best[place] == 1 + (similarity[~mine, clip] > limit).sum()
        others = (similarity[~mine, clip] >= limit).sum()
        assert to_text.worst[place] == 1 + others


def test_the_best_columns_of_equal_values_are_the_first():
    assert best_columns(np.zeros((2, 500), np.float32), 3).tolist() == [[0, 1, 2]] * 2
    assert best_columns(np.zeros((2, 2), np.float32), 0).shape == (2, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_similarity_that_is_not_finite_names_the_clip(value):
    with pytest.raises(
        UserError, match=r"clip clip1 and query 2 \(of clip clip0\): .*not finite.*Fix: "
    ):
        ranks_of([[1, 2], [3, 4], [5, value]], [0, 1, 0])


class Comparing:
    """A model that compares vectors and encodes nothing."""

    compare = staticmethod(similarities)
    compared_on = ClipModel.compared_on


def test_duplicates_tie_wherever_they_stand(monkeypatch):
    """Equal captions and clips have equal similarities, at the edge of a block as in the middle."""
    rng = np.random.default_rng(0)
    texts, clips = (torch.from_numpy(rng.standard_normal((n, 96), np.float32)) for n in (601, 333))
    texts[[0, 255, 600]], clips[[3, 100, 332]] = texts[7].clone(), clips[9].clone()
    monkeypatch.setattr(gallery, "QUERIES", 256)
    given = {"scale": 1.0, "device": torch.device("cpu")}
    whole = compared(PooledScorer(Comparing()), {"text": texts}, {"vision": clips}, **given)["t_v"]
    assert whole.shape == (601, 333)
    assert (whole[[0, 255, 600]] == whole[7]).all()
    assert (whole[:, [3, 100, 332]] == whole[:, [9]]).all()
    assert np.allclose(whole, texts @ clips.T, atol=1e-4)


def test_dual_softmax_multiplies_by_the_softmax_of_the_other_side():
    rng = np.random.default_rng(1)
    similarity = rng.normal(20, 4, size=(12, 5)).astype(np.float32)
    targets = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0])
    to_clip, to_text = dual_softmax(similarity, targets)
    whole = similarity.astype(np.float64)
    shares = np.exp(whole)
    for ranks, axis, place in ((to_clip, 0, 0), (to_text, 1, 1)):
        again = whole * shares / shares.sum(axis=axis, keepdims=True)
        found = retrieval_ranks(again, targets, names(5))[place]
        assert (ranks.best == found.best).all() and (ranks.worst == found.worst).all()
    # Large scales neither overflow nor tie.
    assert dual_softmax(similarity * 20, targets)[0].tied == 0


def test_reranking_orders_the_candidates_and_leaves_the_rest():
    first = np.array([[9, 8, 7, 1, 0], [5, 4, 3, 2, 1]], dtype=np.float32)
    second = np.array([[0, 1, 2, 9, 9], [0, 1, 2, 9, 9]], dtype=np.float32)
    # Candidates are clips 0, 1, 2: the third becomes first; clip 3 stays fourth in spite of its 9.
    ranks = reranked(first, second, np.array([2, 3]), top=3)
    assert ranks.expected.tolist() == [1.0, 4.0]
    whole = reranked(first, second, np.array([2, 3]), top=50)
    assert whole.best.tolist() == [3, 1] and whole.worst.tolist() == [3, 2]


def test_a_report_separates_extras_and_gives_bounds_of_ties():
    heads = {name: np.array(EXAMPLE, np.float32) for name in ("t_va", "t_v", "t_a")}
    found = report_retrieval(heads, np.arange(3), names(3), ["vision", "audio"])
    stated = found.stated
    assert stated["metrics"]["t2v_R1"] == pytest.approx(100 * 11 / 18)
    assert set(stated["intervals"]) == set(stated["metrics"])
    for name, value in stated["metrics"].items():
        low, high = stated["intervals"][name]
        assert low <= value <= high
    assert stated["ties"] == {"t2v": 2, "v2t": 0}
    assert set(stated["bounds"]) == {"t2v_R1", "t2v_MedR", "t2v_MeanR"}
    assert set(stated["extras"]) == {"released", "dual_softmax", "reranked"}
    assert stated["extras"]["released"]["t2v_R1"] == ONE_THIRD
    assert set(stated["extras"]["reranked"]) < set(stated["metrics"])
    alone = report_retrieval({"t_v": heads["t_v"]}, np.arange(3), names(3), ["vision"])
    assert set(alone.stated["extras"]) == {"released", "dual_softmax"}


def test_a_gallery_of_one_clip_has_perfect_recall():
    heads = {"t_va": np.array([[-3.0], [2.0]], np.float32)}
    stated = report_retrieval(heads, np.zeros(2, int), ["a"], ["vision", "audio"]).stated
    assert set(stated["metrics"].values()) == {100.0, 1.0}
    assert stated["intervals"]["t2v_R1"] == [100.0, 100.0] and not stated["bounds"]


def test_a_part_of_a_problem_has_its_own_clips_and_queries():
    kept, whole = np.array([True, False, True]), {"t_v": np.arange(12.0).reshape(4, 3)}
    part, targets, ids = among(kept, whole, np.array([0, 1, 2, 2]), names(3))
    assert part["t_v"].tolist() == [[0, 2], [6, 8], [9, 11]]
    assert (targets.tolist(), ids) == ([0, 1, 1], ["clip0", "clip2"])


def problem_in_blocks(monkeypatch, seed=0):
    """Similarities of equal and of unequal texts and clips, as matrices and in blocks."""
    rng = np.random.default_rng(seed)
    texts, sights, sounds = (
        torch.from_numpy(rng.standard_normal((n, 32), np.float32)) for n in (601, 333, 333)
    )
    texts[[3, 255, 600]], sights[[3, 100, 332]] = texts[7].clone(), sights[9].clone()
    heard = torch.from_numpy(rng.random(333) > 0.2)
    monkeypatch.setattr(gallery, "QUERIES", 256)
    monkeypatch.setattr(gallery, "TILE", 256)
    clips = {"vision": sights, "audio": sounds, "has_audio": heard}
    given = {"queries": {"text": texts}, "clips": clips, "scale": 0.1}
    given |= {"scorer": PooledScorer(Comparing()), "device": torch.device("cpu")}
    whole = ranked(**given)
    assert all(isinstance(x, np.ndarray) for x in whole.values())
    monkeypatch.setattr(gallery, "LARGE", 0)
    blocks = ranked(**given)
    assert all(isinstance(x, Remade) for x in blocks.values())
    return whole, blocks, rng.integers(333, size=601)


def test_similarities_in_blocks_are_reported_like_matrices(monkeypatch):
    whole, blocks, targets = problem_in_blocks(monkeypatch)
    for name, matrix in whole.items():
        assert np.concatenate(list(blocks[name].blocks())).tolist() == matrix.tolist()
        assert blocks[name].at(targets).tolist() == matrix[np.arange(601), targets].tolist()
    for kept in (np.ones(333, bool), np.arange(333) % 3 > 0):
        expected, found = (
            report_retrieval(some, its, ids, ["vision", "audio"])
            for some, its, ids in (among(kept, x, targets, names(333)) for x in (whole, blocks))
        )
        assert found.stated == expected.stated
        assert (found.best == expected.best).all()
        for one, other in ((found.to_clip, expected.to_clip), (found.to_text, expected.to_text)):
            assert all((x == y).all() for x, y in zip(one, other, strict=True))


def test_no_matrix_is_made_of_blocks(monkeypatch):
    """Each block is made anew and has the rows of one product."""
    _, blocks, targets = problem_in_blocks(monkeypatch)
    made = []
    tile = Remade._tile

    def counted(self, row, column):
        made.append(found := tile(self, row, column))
        return found

    monkeypatch.setattr(Remade, "_tile", counted)
    retrieval_ranks(blocks["t_v"], np.sort(targets), names(333))
    assert max(x.size for x in made) <= 256 * 256
    assert len(made) <= 2 * 3 * 2  # the whole once, and tiles with similarities of right answers


def test_the_clip_of_a_similarity_in_a_late_block_is_named(monkeypatch):
    _, blocks, targets = problem_in_blocks(monkeypatch)
    blocks["t_v"].queries["text"][400] = torch.nan
    with pytest.raises(UserError, match="clip clip0 and query 400 "):
        retrieval_ranks(blocks["t_v"], targets, names(333))


@pytest.mark.parametrize("number", [79, 80, 1000])
def test_the_best_columns_are_those_of_a_stable_sort(number):
    similarity = np.random.default_rng(number).integers(40, size=(60, number)).astype(np.float32)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
    assert (best_columns(similarity, 5) == order).all()
