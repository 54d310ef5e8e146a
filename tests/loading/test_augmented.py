"""Augmented samples: each switch by itself, mixtures by hand, and purity of all of them."""

import numpy as np
import pytest
import torch
from features_fakes import CLIPS

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.frames import to_pixels
from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.common.errors import UserError
from clip4vla.config.data import Cache, LogMel
from clip4vla.config.sections import Augment, Inputs
from clip4vla.loading.augment import mix_waveforms
from clip4vla.loading.augmented import AugmentedSamples
from clip4vla.loading.batches import ClipBatches
from clip4vla.loading.collate import collate
from clip4vla.loading.samples import ClipSamples

INPUTS = Inputs(max_frames=3, max_segments=4, max_words=8)
FIXED = INPUTS.model_copy(
    update={"standardisation": "fixed", "log_mel_mean": -30.0, "log_mel_std": 20.0}
)
ITEMS = [(clip_id, "", (clip_id[:5],)) for clip_id in sorted(CLIPS)]
AT = {item[0]: position for position, item in enumerate(ITEMS)}
ALL = Augment(mixup=0.5, frequency_mask=48, time_mask=100, noise=True, roll=True)


@pytest.fixture
def kept(frozen):
    """A cache with waveforms."""
    return ClipCache(frozen(Cache(waveform=True)))


def augmented(cache, augment, epoch=0, seed=0, inputs=INPUTS, **options):
    samples = ClipSamples(cache, ITEMS, inputs, 0.5, seed=seed, **options)
    samples.set_epoch(epoch)
    return AugmentedSamples(samples, augment)


def plain(cache, index, **options):
    return ClipSamples(cache, ITEMS, INPUTS, 0.5, **options)[index]


def equal(one, other):
    one, other = collate([one]), collate([other])
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]
        for key, value in one.items()
    )


def test_without_a_switch_samples_stay_as_they_are(cache):
    """Also without waveforms in the cache."""
    samples = augmented(cache, Augment())
    assert len(samples) == len(ITEMS)
    for index in range(len(ITEMS)):
        assert equal(samples[index], plain(cache, index))


@pytest.mark.parametrize("switch", ["frequency_mask", "time_mask", "noise", "roll", "mixup"])
def test_each_switch_changes_sound_in_its_own_way(kept, switch):
    value = {"frequency_mask": 60, "time_mask": 200, "mixup": 1.0}.get(switch, True)
    alone = augmented(kept, Augment(**{switch: value}))[AT["bravo"]]
    before = plain(kept, AT["bravo"]).log_mel.float()
    after = alone.log_mel
    assert after.shape == before.shape and not torch.equal(after, before)
    changed = after != before
    match switch:
        case "frequency_mask":
            bands = changed.any(dim=(0, 1)).nonzero().flatten()
            assert len(bands) < 60 and (after[:, :, bands] == 0).all()
            assert bands.tolist() == list(range(bands[0], bands[-1] + 1))
        case "time_mask":
            steps = changed.any(dim=(0, 2)).nonzero().flatten()
            assert len(steps) < 200 and (after[:, steps] == 0).all()
        case "noise":
            assert (after - before).min() >= 0 and (after - before).max() < 0.1 * before.std()
        case "roll":
            assert torch.equal(after.sort(dim=1).values, before.sort(dim=1).values)
        case "mixup":
            assert alone.mixed


def test_switches_draw_apart(kept):
    """Noise is the same noise whether clips are rolled before or not."""
    both = augmented(kept, Augment(noise=True, roll=True))[0].log_mel
    noise = augmented(kept, Augment(noise=True))[0].log_mel
    shift = next(i for i in range(noise.shape[1]) if torch.equal(noise.roll(i, dims=1), both))
    assert 0 < shift < noise.shape[1]


def test_noise_is_in_the_deviation_that_the_model_divides_by(kept):
    found = augmented(kept, Augment(noise=True), inputs=FIXED)[0].log_mel
    noise = (found - plain(kept, 0).log_mel.float()) / 20.0
    assert noise.min() >= 0 and 0.001 < noise.max() < 0.1


def mixtures(samples):
    return {sample.clip_id: sample for sample in map(samples.__getitem__, range(len(samples)))}


def test_sound_frames_and_labels_are_mixed_with_one_share(kept):
    front_end, seen = LogMelFrontend(LogMel()), set()
    for epoch in range(12):
        for clip_id, sample in mixtures(augmented(kept, Augment(mixup=1.0), epoch)).items():
            other, share = sample.mixed.clip_id, sample.mixed.share
            sounds = [kept.read_waveform(name) for name in (clip_id, other)]
            seen.add(tuple(sound is None for sound in sounds))
            batch = collate([sample])
            assert batch["share"].tolist() == [share] and 0 < share < 1
            assert batch["mixed_labels"] == [(other[:5],)] and sample.labels == (clip_id[:5],)
            assert sample.has_audio == any(sound is not None for sound in sounds)
            if sample.has_audio:
                length = next(s.shape[1] for s in sounds if s is not None)
                own, second = (torch.zeros(1, length) if s is None else s / 2**15 for s in sounds)
                expected = front_end.compute(mix_waveforms(own, second, share), 16000)
                assert torch.equal(sample.log_mel, expected)
            frames = [kept.read_frames(name, 3) for name in (clip_id, other)]
            for i, found in enumerate(batch["frames"][0, : len(frames[0])]):
                partner = frames[1][i * len(frames[1]) // len(frames[0])]
                exact = share * to_pixels(frames[0][i]).double()
                exact += (1 - share) * to_pixels(partner).double()
                assert (found.double() - exact).abs().max() <= 0.5 + 1e-9
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_a_modality_that_is_not_read_is_not_mixed(kept):
    for sample in mixtures(augmented(kept, ALL, modalities=["vision"])).values():
        assert sample.log_mel is None and sample.jpegs
    for sample in mixtures(augmented(kept, ALL, modalities=["audio"])).values():
        assert not sample.jpegs and not (sample.mixed and sample.mixed.jpegs)


def test_a_donor_lends_its_waveform_too(kept):
    options = {"missing": "substitute", "donor_of": {"charlie": "alpha"}}
    sample = next(
        sample
        for epoch in range(20)
        if (sample := augmented(kept, Augment(mixup=1.0), epoch, **options)[AT["charlie"]])
        and sample.mixed.clip_id == "charlie"
    )
    waveform = kept.read_waveform("alpha") / 2**15
    expected = mix_waveforms(waveform, waveform, sample.mixed.share)
    assert torch.equal(sample.log_mel, LogMelFrontend(LogMel()).compute(expected, 16000))


def test_a_cache_without_waveforms_is_refused(cache):
    samples = augmented(cache, Augment(mixup=1.0))
    with pytest.raises(UserError, match="no waveforms. Fix: set cache.waveform: true"):
        samples[0]


def test_samples_depend_on_seed_epoch_and_draw_only(kept):
    first, again = augmented(kept, ALL, 3), augmented(kept, ALL, 3)
    for index in reversed(range(len(ITEMS))):
        assert equal(first[index], again[index])
    others = augmented(kept, ALL, 4), augmented(kept, ALL, 3, seed=1)
    for other in others:
        assert not equal(first[0], other[0])
    second = first[int(first.drawn(np.array(0), np.array(1)))]
    assert second.clip_id == first[0].clip_id and not equal(first[0], second)


def batches(cache, workers=0, rank=0, world=1, consumed=0, weights=None):
    samples = augmented(cache, ALL)
    source = ClipBatches(
        [samples], 5, 2, workers, torch.device("cpu"), rank=rank, world=world, weights=weights
    )
    return [chunk for chunks in source(1, consumed) for chunk in chunks]


def rows(chunks):
    """Sums that stand for what each clip of each batch holds, however many channels it has there."""
    return [
        (clip_id, frames.double().sum().item(), audio.double().mean(dim=1).abs().sum().item())
        for chunk in chunks
        for clip_id, frames, audio in zip(
            chunk["clip_id"], chunk["frames"], chunk["audio"], strict=True
        )
    ]


@pytest.mark.parametrize("balanced", [False, True])
def test_ranks_workers_and_resuming_change_nothing(kept, balanced):
    weights = np.array([9.0, 9.0, 1.0, 1.0, 1.0, 1.0]) if balanced else None
    whole = rows(batches(kept, weights=weights))
    assert len(whole) == len(ITEMS)
    assert rows(batches(kept, workers=2, weights=weights)) == whole
    assert rows(batches(kept, consumed=2, weights=weights)) == whole[2:]
    shares = [rows(batches(kept, rank=rank, world=2, weights=weights)) for rank in (0, 1)]
    dealt = [row for pair in zip(*shares, strict=True) for row in pair]
    assert [row[0] for row in dealt] == [row[0] for row in whole]
    for found, expected in zip(dealt, whole, strict=True):
        assert found == pytest.approx(expected)
    if balanced:
        alphas = [row for row in whole if row[0] == "alpha"]
        assert len(alphas) == len(set(alphas)) > 1
