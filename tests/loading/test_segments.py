import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clip4vla.config.sections import Inputs
from clip4vla.loading.masking import Masks
from clip4vla.loading.segment_counts import segment_count
from clip4vla.loading.segments import split


def noise(channels, steps, seed=0):
    return (
        20 * torch.randn(channels, steps, 224, generator=torch.Generator().manual_seed(seed)) - 40
    )


@pytest.mark.parametrize(
    ("steps", "count", "released"),
    [
        (1251, 6, 6),
        (2501, 12, 12),
        (3751, 17, 17),
        (224, 1, 2),
        (225, 2, 2),
        (448, 2, 3),
        (1, 1, 1),
    ],
)
def test_counts(steps, count, released):
    assert segment_count(steps, Inputs()) == count
    assert segment_count(steps, Inputs(extra_segment=True)) == released
    inputs = Inputs(max_segments=20)
    assert len(split(noise(1, steps), inputs)) == count
    assert (
        len(split(noise(1, steps), inputs.model_copy(update={"extra_segment": True}))) == released
    )


@pytest.mark.parametrize("extra", [False, True])
def test_reference_segments(vectors, extra):
    out = split(vectors["logmel_db_released"], Inputs(extra_segment=extra))
    expected = vectors["segments_released"].reshape(vectors["segments_released_shape"])
    np.testing.assert_allclose(out.numpy(), expected.astype(np.float32), rtol=0, atol=5e-3)


def test_mean_zero_and_population_deviation_one():
    out = split(noise(3, 448), Inputs()).double()
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(2, 3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std((2, 3), correction=0), torch.ones(2, 3).double())


def test_all_padding_and_constant_segments_are_zero():
    extra = split(noise(1, 224), Inputs(extra_segment=True))
    assert bool((extra[1] == 0).all())
    constant = split(torch.full((1, 448, 224), -59.7), Inputs())
    assert bool((constant == 0).all())


def test_mono_stands_for_three_equal_channels():
    mono = noise(1, 300)
    three = split(mono.expand(3, -1, -1), Inputs())
    torch.testing.assert_close(split(mono, Inputs()).expand_as(three), three)


def test_padding_value():
    clip = noise(1, 300)
    zero = split(clip, Inputs(pad_value="zero"))[1, 0]
    least = split(clip, Inputs(pad_value="min"))[1, 0]
    assert float(zero[76:].std()) < 1e-5 and float(zero[100, 0]) > 0
    assert float(least[76:].std()) < 1e-5 and float(least[100, 0]) < float(least[:76].mean())
    padded = torch.cat((clip, torch.zeros(1, 148, 224)), dim=1)
    torch.testing.assert_close(split(clip, Inputs()), split(padded, Inputs()))


def test_central_segments_are_kept():
    clip = noise(1, 224 * 7 + 10)
    every = split(clip, Inputs(max_segments=8))
    torch.testing.assert_close(split(clip, Inputs(max_segments=4)), every[2:6])
    torch.testing.assert_close(split(clip, Inputs(max_segments=3)), every[2:5])
    torch.testing.assert_close(split(clip, Inputs(max_segments=7)), every[0:7])


@pytest.mark.parametrize("most", [8, 2])
def test_masks_are_laid_before_padding_and_splitting(most):
    clip = noise(3, 1000)
    rng = np.random.default_rng(0)
    masks = Masks(rng.random(1000) < 0.3, rng.random(224) < 0.2)
    by_hand = clip.clone()
    by_hand[:, masks.steps] = 0.0
    by_hand[:, :, masks.bands] = 0.0
    inputs = Inputs(max_segments=most)
    torch.testing.assert_close(split(clip, inputs, masks), split(by_hand, inputs))


def test_input_is_left_alone():
    clip = noise(1, 300)
    before = clip.clone()
    split(clip, Inputs(pad_value="min"))
    assert torch.equal(clip, before)


def test_standardisation_by_the_whole_clip():
    clip = noise(3, 600) * torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1)
    inputs = Inputs(standardisation="clip")
    mean = clip.mean((1, 2), keepdim=True)
    deviation = clip.std((1, 2), correction=0, keepdim=True)
    expected = torch.cat(((clip - mean) / deviation, (0 - mean).expand(3, 72, 224) / deviation), 1)
    found = split(clip, inputs)
    expected = expected.view(3, 3, 224, 224).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # the segments that are left out, the padding and the masks change none of the others
    torch.testing.assert_close(
        split(clip, Inputs(standardisation="clip", max_segments=1)), found[1:2]
    )
    masks = Masks(np.arange(600) < 300, np.zeros(224, bool))
    torch.testing.assert_close(split(clip, inputs, masks)[2], found[2])
    assert bool((split(torch.full((1, 448, 224), -59.7), inputs) == 0).all())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("standardisation", ["segment", "clip"])
def test_the_number_of_threads_changes_no_bit(threads, standardisation):
    inputs = Inputs(standardisation=standardisation)
    for channels, steps in ((1, 224), (1, 400), (1, 900), (3, 224)):
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append(split(noise(channels, steps), inputs))
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("options", [{}, {"extra_segment": True}, {"standardisation": "clip"}])
@pytest.mark.parametrize("steps", [100, 448, 900])
def test_in_place_gives_the_same_bits(options, steps):
    """Into one channel of a batch, full of what was there before."""
    clip, masks = noise(1, steps), Masks(np.arange(steps) % 3 == 0, np.arange(224) % 5 == 0)
    expected = split(clip, Inputs(**options), masks)
    batch = torch.full((2, len(expected) + 1, 3, 224, 224), torch.nan)
    split(clip, Inputs(**options), masks, out=batch[1, :-1, :1])
    assert torch.equal(batch[1, :-1, :1], expected)
    assert batch[0].isnan().all() and batch[1, -1].isnan().all() and batch[1, :, 1:].isnan().all()


def test_standardisation_by_given_numbers():
    clip = noise(1, 300)
    inputs = Inputs(standardisation="fixed", log_mel_mean=-40.0, log_mel_std=20.0)
    found = split(clip.half(), inputs)
    padded = torch.cat((clip.half().float(), torch.zeros(1, 148, 224)), dim=1)
    torch.testing.assert_close(found, (padded.view(1, 2, 224, 224).transpose(0, 1) + 40) / 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"standardisation": "fixed"}, "needs log_mel_mean and log_mel_std"),
        ({"standardisation": "fixed", "log_mel_mean": 0.0, "log_mel_std": 0.0}, "above 0"),
        ({"log_mel_mean": 0.0}, "log_mel_mean only has an effect with standardisation: fixed"),
        ({"standardisation": "clip", "log_mel_std": 1.0}, "log_mel_std only has an effect"),
    ],
)
def test_statistics_are_given_where_they_are_read(options, message):
    with pytest.raises(ValidationError, match=message):
        Inputs(**options)
