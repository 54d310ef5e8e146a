"""Segments of other lengths, and what training draws of a clip where evaluation does not."""

import pytest
import torch
from features_fakes import CLIPS

from clip4vla.config.sections import Inputs, Masking
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples
from clip4vla.loading.segments import split

ITEMS = [(clip_id, "", ()) for clip_id in sorted(CLIPS)]
INPUTS = Inputs(max_frames=3, max_segments=1, max_words=8, train_frames=1, train_crop=True)


def samples_of(cache, training=True, seed=0, **given):
    inputs = INPUTS.model_copy(update=given)
    return ClipSamples(cache, ITEMS, inputs, 0.5, seed=seed, training=training)


def epochs(samples, count=12):
    """Yield the samples of each epoch, by clip."""
    for epoch in range(count):
        samples.set_epoch(epoch)
        yield {sample.clip_id: sample for sample in samples}


def test_a_segment_has_the_steps_of_the_inputs_and_the_bands_of_the_log_mel():
    log_mel = torch.arange(2500.0)[None, :, None].expand(1, 2500, 128)
    fixed = {"standardisation": "fixed", "log_mel_mean": 1.0, "log_mel_std": 2.0}
    inputs = Inputs(segment_steps=1024, max_segments=2, **fixed)
    found = split(log_mel, inputs)
    assert found.shape == (2, 1, 1024, 128)
    assert found[1, 0, -1, 0] == (2047 - 1) / 2  # of three segments the first two are central
    drawn = split(log_mel, inputs, start=452)
    assert drawn[0, 0, 0, 0] == (452 - 1) / 2 and drawn[1, 0, -1, 0] == (2499 - 1) / 2
    short = split(log_mel[:, :1000], inputs)
    assert short.shape == (1, 1, 1024, 128)
    assert bool((short[:, :, 1000:] == -0.5).all())  # 0 before it is standardised


def test_each_epoch_draws_frames_that_the_cache_has(cache):
    drawn = {clip_id: set() for clip_id, _, _ in ITEMS}
    for samples in epochs(samples_of(cache), 40):
        for clip_id, sample in samples.items():
            (jpeg,) = sample.jpegs
            drawn[clip_id].add(bytes(jpeg))
    for clip_id, found in drawn.items():
        assert found == {bytes(jpeg) for jpeg in cache.read_frames(clip_id)}, clip_id


def test_several_drawn_frames_are_in_order(cache):
    for samples in epochs(samples_of(cache, train_frames=2), 5):
        for clip_id, sample in samples.items():
            places = [cache.read_frames(clip_id).index(jpeg) for jpeg in sample.jpegs]
            assert len(places) == min(2, cache.frame_count(clip_id)) and places == sorted(places)


def test_each_epoch_draws_a_whole_window_of_a_long_clip(cache):
    starts = {clip_id: set() for clip_id, _, _ in ITEMS}
    for samples in epochs(samples_of(cache)):
        for clip_id, sample in samples.items():
            starts[clip_id].add(sample.start)
            if sample.start is not None:
                assert 0 <= sample.start <= sample.log_mel.shape[1] - 224
            elif sample.log_mel is not None:
                assert sample.log_mel.shape[1] <= 224
    assert len(starts["alpha"]) > 6 and starts["charlie"] == {None}


def test_the_same_seed_epoch_and_clip_draw_the_same(cache):
    def batches(seed):
        return [collate([*samples.values()]) for samples in epochs(samples_of(cache, seed=seed), 3)]

    first, again, other = batches(0), batches(0), batches(1)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one["frames"], two["frames"])
        assert torch.equal(one["audio"], two["audio"])
    assert any(not torch.equal(a["audio"], b["audio"]) for a, b in zip(first, other, strict=True))


def test_evaluation_draws_nothing(cache):
    given = {"train_frames": None, "train_crop": False}
    plain = collate([*samples_of(cache, **given)])
    for evaluated in (samples_of(cache, training=False), samples_of(cache).of([*CLIPS], "audio")):
        evaluated.set_epoch(3)
        assert all(sample.start is None for sample in evaluated)
    evaluated = collate([*samples_of(cache, training=False)])
    assert torch.equal(evaluated["frames"], plain["frames"])
    assert torch.equal(evaluated["audio"], plain["audio"])


@pytest.mark.parametrize("masking", [None, Masking()])
def test_a_batch_of_silence_has_the_shape_of_one_with_sound(cache, masking):
    silent = [item for item in ITEMS if item[0] == "charlie"]
    inputs = Inputs(max_frames=1, segment_steps=100)
    batch = collate([*ClipSamples(cache, silent, inputs, 0.5, masking=masking)])
    assert batch["audio"].shape == (1, 1, 1, 100, cache.settings.log_mel.n_mels)
    assert not batch["audio_mask"].any()
