"""Nearest neighbours: the same for any blocks, order and copies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.inference import neighbours
from clip4vla.inference.neighbours import nearest


def unit(rows, seed, dim=48):
    x = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def shaken(donors, rng, copies=6):
    """Copies, and copies that differ in the last bit of one number."""
    more = [donors, donors[rng.integers(len(donors), size=copies)]]
    for _ in range(copies):
        near = donors[rng.integers(len(donors))].copy()
        place = rng.integers(len(near))
        near[place] = np.nextafter(near[place], np.float32(rng.choice([-1, 1])))
        more.append(near[None])
    return np.concatenate(more)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9), st.integers(1, 12))
def test_the_nearest_is_the_same_for_any_blocks_and_order(seed, few, block, other):
    rng = np.random.default_rng(seed)
    queries = unit(4, seed + 1)
    donors = shaken(unit(few, seed + 2), rng)
    queries[0] = donors[0]
    index, cosine = nearest(queries, donors, block)
    for query, i, value in zip(queries, index, cosine, strict=True):
        products = (query.astype(np.float64) * donors).sum(axis=1)
        assert (i, value) == (products.argmax(), products.max())
    order = rng.permutation(len(donors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "DONORS", other)
        patch.setattr(neighbours, "PAIRS", block)
        again, value = nearest(queries, donors[order], other)
    assert (value == cosine).all()
    products = (queries.astype(np.float64)[:, None] * donors[order]).sum(axis=2)
    assert (again == products.argmax(axis=1)).all()
    turned = rng.permutation(len(queries))
    assert (nearest(queries[turned], donors)[0] == index[turned]).all()


def test_of_copies_the_first_wins_in_any_block(monkeypatch):
    """50 copies of each: more than there are candidates."""
    donors = np.repeat(unit(2, 3), 50, axis=0)[np.random.default_rng(0).permutation(100)]
    queries = unit(20, 4)
    first = [int(np.argmax((donors == donors[i]).all(axis=1))) for i in range(100)]
    expected = nearest(queries, donors)[0]
    assert all(first[i] == i for i in expected)
    for block in (1, 3, 64):
        assert (nearest(queries, donors, block)[0] == expected).all()
    monkeypatch.setattr(neighbours, "DONORS", 1)
    assert (nearest(queries, donors)[0] == expected).all()


@pytest.mark.parametrize("onednn", [True, False])  # torch is also built without it
def test_many_clips_with_a_known_donor(onednn, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    donors = unit(3000, 9)
    truth = np.random.default_rng(10).integers(3000, size=200)
    queries = donors[truth] + 0.05 * unit(200, 11)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert (nearest(queries, donors, 64)[0] == truth).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])  # the square of the last is infinite
def test_no_query_has_no_donor_and_broken_features_are_refused(value):
    donors = unit(3, 1)
    assert [len(part) for part in nearest(donors[:0], donors)] == [0, 0]
    broken = donors.copy()
    broken[2, 5] = value
    with pytest.raises(ValueError, match="donor 2 is not finite"):
        nearest(donors, broken)
    with pytest.raises(ValueError, match="query 2 is not finite"):
        nearest(broken, donors)


def test_any_number_of_donors_within_rounding_are_told_apart():
    donor = unit(1, 5)[0]
    near = np.repeat(donor[None], 200, axis=0)
    places = np.random.default_rng(6).integers(len(donor), size=200)
    near[np.arange(200), places] = np.nextafter(near[np.arange(200), places], np.float32(2))
    donors = np.concatenate([unit(50, 7), near, -near])
    queries = np.concatenate([unit(5, 8), donor[None], np.zeros_like(donor)[None]])
    products = (queries.astype(np.float64)[:, None] * donors).sum(axis=2)
    index, best = nearest(queries, donors)
    assert (index == products.argmax(axis=1)).all() and (best == products.max(axis=1)).all()
    assert index[-1] == 0  # nothing is nearest to nothing: the first


def test_unlike_donors_of_one_hash_all_count(monkeypatch):
    donors, queries = unit(20, 1), unit(6, 2)
    donors[:, [0, -1]] = 0.0  # else no hash is made
    expected = nearest(queries, donors)[0]

    class Zeros:
        def integers(self, high, size, dtype):
            return np.zeros(size, dtype)

    monkeypatch.setattr(neighbours.np.random, "default_rng", lambda seed: Zeros())
    assert (nearest(queries, donors)[0] == expected).all() and len(set(expected)) > 1


@pytest.fixture
def compared(monkeypatch):
    """Pairs of a query and a donor that are compared in float64, in one list for each time."""
    times = []
    products = neighbours._products

    def counted(queries, rows, donors, near):
        times.append(list(zip(rows.tolist(), near.tolist(), strict=True)))
        return products(queries, rows, donors, near)

    monkeypatch.setattr(neighbours, "_products", counted)
    monkeypatch.setattr(neighbours, "DONORS", 128)
    return times


def test_queries_of_zeros_are_compared_with_one_donor(compared):
    queries, donors = np.zeros((300, 48), np.float32), unit(500, 1)
    queries[[0, 299]] = donors[[7, 450]]
    donors[-1] = 0.0
    index, best = nearest(queries, donors)
    assert index.tolist() == [7, *[0] * 298, 450] and (best[1:299] == 0).all()
    assert sum(map(len, compared)) < 2 * len(queries)


def test_pairs_are_compared_once_and_late_but_not_too_many_together(compared, monkeypatch):
    queries, donors = unit(300, 1), unit(3000, 2)
    expected = nearest(queries, donors)[0]
    assert len(compared) == 1 and len(compared[0]) < 310  # of the best donors alone
    compared.clear()
    monkeypatch.setattr(neighbours, "PAIRS", 400)
    assert (nearest(queries, donors)[0] == expected).all()
    assert 2 < len(compared) < 6 and max(map(len, compared)) < 400 + 310
    pairs = [pair for one in compared for pair in one]
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("size", [1e-22, 1e-25, 1e-30, 1e18])
@pytest.mark.parametrize("small", ["queries", "donors"])
def test_the_nearest_is_exact_for_vectors_of_any_size(size, small):
    """Squares of 1e-25 are zero in float32."""
    rng = np.random.default_rng(5)
    base = unit(1, 4)
    queries = np.repeat(base, 4, axis=0)
    donors = base + (3e-8 * rng.standard_normal((3000, 48))).astype(np.float32)
    if small == "queries":
        queries *= np.float32(size)
    else:
        donors *= np.float32(size)
    products = (queries.astype(np.float64)[:, None] * donors).sum(axis=2)
    index, best = nearest(queries, donors)
    assert (index == products.argmax(axis=1)).all() and (best == products.max(axis=1)).all()


@pytest.mark.filterwarnings("error")
def test_arrays_that_torch_cannot_share(tmp_path):
    queries, donors = unit(300, 1), unit(3000, 2)
    index, best = nearest(queries, donors)
    again = nearest(queries[::-1, ::-1], donors[:, ::-1])
    assert (again[0][::-1] == index).all()
    np.save(tmp_path / "donors.npy", donors)
    mapped = nearest(queries, np.load(tmp_path / "donors.npy", mmap_mode="r"))
    assert (mapped[0] == index).all() and (mapped[1] == best).all()
