import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.loading.order import dealt, epoch_order, mixed_order


@settings(max_examples=50, deadline=None)
@given(
    shards=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    seed=st.integers(-3, 2**40),
    epoch=st.integers(0, 50),
    window=st.integers(1, 6),
)
def test_every_sample_once_window_by_window(shards, seed, epoch, window):
    shards = np.array(shards)
    order = epoch_order(shards, seed, epoch, window)
    assert sorted(order.tolist()) == list(range(len(shards)))
    np.testing.assert_array_equal(order, epoch_order(shards, seed, epoch, window))
    seen, left = shards[order], {shard: (shards == shard).sum() for shard in np.unique(shards)}
    live = set()  # shards begun and not yet finished never exceed a window
    for shard in seen:
        live.add(shard)
        assert len(live) <= window
        left[shard] -= 1
        if all(left[one] == 0 for one in live):
            live.clear()


def test_samples_of_four_shards_are_mixed_among_themselves():
    shards = np.repeat(np.arange(8), 20)
    for order in (epoch_order(shards, 0, 0), [index for _, index in mixed_order([shards], 0, 0)]):
        halves = np.split(shards[order], 2)
        for seen in halves:
            assert len(set(seen)) == 4
            assert (np.diff(seen) != 0).sum() > 40  # 3, were one shard read after the other
        assert not set(halves[0]) & set(halves[1])


def test_seed_and_epoch_change_the_order():
    shards = np.repeat(np.arange(8), 20)
    base = epoch_order(shards, 0, 0)
    for other in (epoch_order(shards, 1, 0), epoch_order(shards, 0, 1)):
        assert (base != other).any()
        assert (shards[base] != shards[other]).any()


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(0, 50),
    world=st.integers(1, 5),
    start=st.integers(0, 50),
)
def test_ranks_share_the_rest_of_an_epoch(count, world, start):
    order = np.arange(count) * 7
    parts = [dealt(order, rank, world, start) for rank in range(world)]
    assert sorted(np.concatenate(parts)) == order[start:].tolist()
    for rank, part in enumerate(parts):
        assert all(value // 7 % world == rank for value in part)


def test_resume_goes_on_where_it_stopped_with_other_ranks():
    order = epoch_order(np.zeros(48), 3, 1)
    batches = [
        np.concatenate([dealt(order, r, 2)[k * 4 : k * 4 + 4] for r in (0, 1)]) for k in range(3)
    ]
    resumed = [dealt(order, r, 4, start=24)[:2] for r in range(4)]
    assert sorted(np.concatenate(batches)) == sorted(order[:24])
    assert sorted(np.concatenate(resumed)) == sorted(order[24:32])


def test_sources_in_equal_parts():
    small, large = np.repeat([0, 1], 5), np.repeat(np.arange(5), 5)
    epochs = [mixed_order([small, large], 0, epoch) for epoch in range(5)]
    assert epochs == [mixed_order([small, large], 0, epoch) for epoch in range(5)]
    assert epochs[0] != epochs[1]
    for order in epochs:
        assert [source for source, _ in order] == [0, 1] * 10
        assert sorted(index for source, index in order if source == 0) == list(range(10))
    drawn = [index for order in epochs for source, index in order if source == 1]
    assert sorted(drawn) == sorted([*range(25), *range(25)])  # 50 draws: every sample twice
    assert sorted(drawn[:25]) == list(range(25))


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="empty"):
        mixed_order([np.zeros(3), np.zeros(0)], 0, 0)
