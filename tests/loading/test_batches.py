"""Batches: what an epoch holds, and where a resumed one goes on."""

import numpy as np
import pytest
import torch
from tiny_world import INPUTS, build_world, source

from clip4vla.common.errors import UserError
from clip4vla.loading.batches import ClipBatches, FeatureBatches, batch_count
from clip4vla.loading.loader import Caches, clip_items, samples_of, split_rows


@pytest.mark.parametrize(
    ("samples", "expected"), [(10, (2, 4)), (8, (2, 4)), (4, (1, 4)), (3, (1, 3)), (2, (1, 2))]
)
def test_the_last_incomplete_batch_is_left_out_unless_it_is_the_epoch(samples, expected):
    assert batch_count(samples, 4) == expected


def test_one_sample_cannot_be_contrasted():
    with pytest.raises(UserError, match="1 training sample"):
        batch_count(1, 4)


def feature_batches(size=4, microbatch=None):
    return FeatureBatches(
        clip_ids=[f"c{i}" for i in range(10)],
        batch_of=lambda index: {"index": index, "target": index},
        seed=3,
        batch_size=size,
        microbatch=microbatch,
    )


def clip_ids(batches):
    return [[clip for chunk in chunks for clip in chunk["clip_id"]] for chunks in batches]


def test_feature_batches_are_a_function_of_seed_and_epoch():
    whole = clip_ids(feature_batches()(1, 0))
    assert [len(clips) for clips in whole] == [4, 4]
    assert len({clip for clips in whole for clip in clips}) == 8
    assert clip_ids(feature_batches()(1, 4)) == whole[1:]
    assert clip_ids(feature_batches()(2, 0)) != whole
    for (batch,) in feature_batches()(1, 0):
        assert batch["clip_id"] == [f"c{i}" for i in batch["target"].tolist()]
        assert torch.equal(batch["target"], batch["index"])


def test_chunks_cut_a_batch_and_change_no_order():
    chunks = list(feature_batches(microbatch=3)(1, 0))
    assert [[len(chunk["clip_id"]) for chunk in batch] for batch in chunks] == [[3, 1], [3, 1]]
    assert clip_ids(chunks) == clip_ids(feature_batches()(1, 0))
    assert clip_ids(feature_batches(microbatch=9)(1, 0)) == clip_ids(feature_batches()(1, 0))


@pytest.fixture(scope="module")
def clip_batches(tmp_path_factory):
    caches = Caches(build_world(tmp_path_factory.mktemp("batches") / "world"))

    def make(*splits, size=2, microbatch=None):
        sources = []
        for split in splits:
            one = source(split)
            items = clip_items(split_rows(caches[one], one))
            given = INPUTS, ("vision", "audio"), "filter"
            sources.append(samples_of(caches[one], items, one, *given))
        return ClipBatches(sources, 5, size, 1, torch.device("cpu"), microbatch)

    return make


def test_a_resumed_epoch_goes_on_behind_the_consumed_samples(clip_batches):
    batches = clip_batches("train")
    whole = list(batches(1, 0))
    assert len(whole) == batches.steps == 3
    rest = list(clip_batches("train")(1, 2))
    assert clip_ids(rest) == clip_ids(whole[1:])
    assert torch.equal(rest[0][0]["audio"], whole[1][0]["audio"])


@pytest.mark.parametrize("consumed", [0, 3])
def test_clips_come_in_chunks_of_at_most_a_microbatch(clip_batches, consumed):
    whole = list(clip_batches("train", size=3)(1, consumed))
    assert whole
    parts = list(clip_batches("train", size=3, microbatch=2)(1, consumed))
    assert clip_ids(parts) == clip_ids(whole)
    for (batch,), chunks in zip(whole, parts, strict=True):
        assert [len(chunk["tokens"]) for chunk in chunks] == [2, 1]
        assert torch.equal(torch.cat([chunk["tokens"] for chunk in chunks]), batch["tokens"])


def test_sources_are_mixed_in_equal_parts(clip_batches):
    for (batch,) in clip_batches("train", "val")(0, 0):
        assert sorted(clip[0] for clip in batch["clip_id"]) == ["t", "v"]


def test_balanced_samples_are_drawn_by_weight_and_dealt_to_ranks(clip_batches):
    """A function of seed and epoch: with replacement, and the same for any number of ranks."""
    weights = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])

    def epoch(number, rank=0, world=1, consumed=0):
        batches = clip_batches("train")
        batches.weights, batches.rank, batches.world = weights, rank, world
        return clip_ids(batches(number, consumed))

    whole = epoch(1)
    items = clip_batches("train").sources[0].items
    assert {clip for clips in whole for clip in clips} <= {items[2][0], items[3][0]}
    assert epoch(1, consumed=2) == whole[1:] and any(epoch(n) != whole for n in (2, 3, 4))
    dealt = zip(epoch(1, 0, 2), epoch(1, 1, 2), strict=True)
    assert [[*a, *b] for a, b in dealt] == whole
    features = feature_batches()
    features.weights = np.arange(10) == 4
    assert clip_ids(features(0, 0)) == [["c4"] * 4] * 2
