"""The number of ranks and of reading processes changes nothing about a step but who reads it."""

import pytest
import torch
from tiny_world import INPUTS, build_world, source

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Masking
from clip4vla.loading.batches import ClipBatches
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows

SIZE, EPOCH = 4, 1
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """The steps of an epoch as ranks together see them: lists of samples in global order."""
    caches = Caches(build_world(tmp_path_factory.mktemp("ranks") / "world"))

    def make(rank=0, world=1, workers=0, size=SIZE, splits=("train",)):
        sources = []
        for split in splits:
            one = source(split)
            items = clip_items(split_rows(caches[one], one))
            given = INPUTS, ("audio",), "zeros", None, Masking(), 5
            sources.append(samples_of(caches[one], items, one, *given))
        cpu = torch.device("cpu")
        return ClipBatches(sources, 5, size, workers, cpu, rank=rank, world=world)

    def steps(world, workers=0, consumed=0, **given):
        ranks = [
            list(make(rank, world, workers, **given)(EPOCH, consumed)) for rank in range(world)
        ]
        size, found = given.get("size", SIZE), []
        for number, parts in enumerate(zip(*ranks, strict=True)):
            start = consumed + number * size
            owners = [(start + i) % world for i in range(size)]  # of the positions of this step
            (batches,) = zip(*parts, strict=True)  # one chunk each
            seen = [iter(range(size)) for _ in range(world)]
            found.append([pick(batches[owner], next(seen[owner])) for owner in owners])
            assert sum(len(batch["clip_id"]) for batch in batches) == size
        return found

    steps.make = make
    return steps


def pick(batch, row):
    """One sample of a batch: id, sound and masked sound without padding."""
    valid = batch["audio_mask"][row]
    return batch["clip_id"][row], batch["audio"][row][valid], batch["masked_audio"][row][valid]


def assert_same(one, other):
    assert [[s[0] for s in step] for step in one] == [[s[0] for s in step] for step in other]
    for step, same in zip(one, other, strict=True):
        for a, b in zip(step, same, strict=True):
            assert torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_workers_change_nothing(steps, world, workers):
    assert len(steps(1)) == 2
    assert_same(steps(world, workers), steps(1))


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_mixed_sources_on_any_number_of_ranks(steps, world):
    splits = ("train", "val")
    alone = steps(1, size=6, splits=splits)
    assert all(sorted(sample[0][0] for sample in step) == [*"tttvvv"] for step in alone)
    assert_same(steps(world, size=6, splits=splits), alone)


@pytest.mark.parametrize("consumed", [3, 6])
def test_a_run_goes_on_with_another_number_of_ranks(steps, consumed):
    """Any number of consumed samples, also one that the new number of ranks does not divide."""
    rest = steps(1, size=3)[consumed // 3 :]
    for world in (1, 3):
        assert_same(steps(world, consumed=consumed, size=3), rest)
    whole = [sample for step in steps(1) for sample in step]
    for world in (2, 4):
        (step,) = steps(world, consumed=consumed)[:1] or [[]]
        assert [s[0] for s in step] == [s[0] for s in whole[consumed : consumed + len(step)]]


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(steps):
    with pytest.raises(UserError, match="4 samples a step cannot be dealt evenly to 3 ranks"):
        steps.make(world=3)
