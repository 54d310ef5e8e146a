"""Nearest neighbours: exact, and the same for any blocks, order and copies."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.inference import neighbours
from clip4vla.inference.neighbours import nearest


def unit(rows, seed, dim=48):
    x = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def exact(query, donor):
    return sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, donor, strict=True))


def shaken(donors, rng, copies=6):
    """Copies, and copies that differ in the last bit of one number or in the order of numbers."""
    more = [donors, donors[rng.integers(len(donors), size=copies)]]
    for _ in range(copies):
        near = donors[rng.integers(len(donors))].copy()
        place = rng.integers(len(near))
        near[place] = np.nextafter(near[place], np.float32(rng.choice([-1, 1])))
        more.append(near[None])
    return np.concatenate(more)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9), st.integers(1, 12))
def test_the_nearest_is_exact_whatever_the_blocks_and_the_order(seed, few, block_q, block_n):
    rng = np.random.default_rng(seed)
    queries = unit(4, seed + 1)
    donors = shaken(unit(few, seed + 2), rng)
    queries[0] = donors[0]
    index, cosine = nearest(queries, donors, (block_q, block_n))
    for query, i, value in zip(queries, index, cosine, strict=True):
        products = [exact(query, donor) for donor in donors]
        rounded = [float(product) for product in products]
        assert i == rounded.index(max(rounded)) and value == max(rounded)
    order = rng.permutation(len(donors))
    again, value = nearest(queries, donors[order], (block_n, block_q))
    assert (value == cosine).all()
    for query, i, j in zip(queries, index, again, strict=True):
        assert float(exact(query, donors[i])) == float(exact(query, donors[order][j]))
    turned = rng.permutation(len(queries))
    assert (nearest(queries[turned], donors)[0] == index[turned]).all()


def test_of_copies_the_first_wins_in_any_block():
    donors = np.repeat(unit(2, 3), 50, axis=0)[np.random.default_rng(0).permutation(100)]
    queries = unit(20, 4)
    first = [int(np.argmax((donors == donors[i]).all(axis=1))) for i in range(100)]
    for block in ((1, 1), (3, 7), (20, 100), (64, 64)):
        index, _ = nearest(queries, donors, block)
        assert all(first[i] == i for i in index)
        assert (index == nearest(queries, donors)[0]).all()


def test_ties_of_different_donors_go_to_the_first():
    """Both products are exactly the same number, summed in another order of terms."""
    rng = np.random.default_rng(7)
    donor = unit(1, 8)[0]
    order = rng.permutation(48)
    query = np.full((1, 48), 48**-0.5, dtype=np.float32)
    donors = np.stack([donor[order], donor, donor[::-1]])
    index, cosine = nearest(query, donors)
    assert index.tolist() == [0]
    assert cosine[0] == math.fsum(float(query[0, 0]) * float(x) for x in donor)


def test_many_clips_with_a_known_donor():
    donors = unit(3000, 9)
    truth = np.random.default_rng(10).integers(3000, size=200)
    queries = donors[truth] + 0.05 * unit(200, 11)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert (nearest(queries, donors, (64, 256))[0] == truth).all()


def test_no_query_has_no_donor_and_broken_features_are_refused():
    donors = unit(3, 1)
    assert [len(part) for part in nearest(donors[:0], donors)] == [0, 0]
    broken = donors.copy()
    broken[2, 5] = np.nan
    with pytest.raises(ValueError, match="donor 2 is not finite"):
        nearest(donors, broken)
    with pytest.raises(ValueError, match="query 2 is not finite"):
        nearest(broken, donors)


def test_hashes_that_collide_change_nothing(monkeypatch):
    class Zeros:
        def integers(self, high, size, dtype):
            return np.zeros(size, dtype=dtype)

    donors = shaken(unit(9, 12), np.random.default_rng(2))
    queries = unit(6, 13)
    index, cosine = nearest(queries, donors)
    monkeypatch.setattr(neighbours, "generator", lambda purpose: Zeros())
    again, same = nearest(queries, donors, (2, 3))
    assert (again == index).all() and (same == cosine).all()
