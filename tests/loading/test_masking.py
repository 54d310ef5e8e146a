import numpy as np
import pytest

from clip4vla.common.seeds import generator
from clip4vla.config.sections import Masking
from clip4vla.loading.masking import draw_masks


def draw(masking, steps=1251, seed=0):
    return draw_masks(steps, 224, masking, generator("test", seed))


@pytest.mark.parametrize(
    ("mode", "bands", "steps"), [("released", 0.199, 0.489), ("paper", 0.401, 0.803)]
)
def test_expected_coverage(mode, bands, steps):
    masks = [draw(Masking(mode=mode), seed=seed) for seed in range(200)]
    assert np.mean([mask.bands.mean() for mask in masks]) == pytest.approx(bands, abs=0.03)
    assert np.mean([mask.steps.mean() for mask in masks]) == pytest.approx(steps, abs=0.015)


def test_released_masks_one_by_one():
    """The union of masks equals what a plain loop over the same draws marks."""
    masking = Masking(frequency=0.0)
    rng = generator("test", 5)
    widths = np.minimum(rng.integers(0, 10, size=int(300 * 0.15)), 300)
    starts = rng.integers(0, 300 - widths, endpoint=True)
    expected = np.zeros(300, bool)
    rng = generator("test", 5)
    masks = draw_masks(300, 224, masking, rng)
    # the bands are drawn first, and no mask at all takes nothing from the generator
    for start, width in zip(starts, widths, strict=True):
        expected[start : start + width] = True
    np.testing.assert_array_equal(masks.steps, expected)
    assert not masks.bands.any()


def test_paper_masks_have_the_full_width():
    mask = draw(Masking(mode="paper", time=0.01), steps=5000).steps
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    runs = edges[1::2] - edges[::2]
    assert len(runs) > 10
    assert (runs[:-1] >= 10).all()


@pytest.mark.parametrize("mode", ["released", "paper"])
def test_pure_function_of_the_generator(mode):
    first, again, other = (draw(Masking(mode=mode), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.steps, again.steps)
    np.testing.assert_array_equal(first.bands, again.bands)
    assert (first.steps != other.steps).any()


@pytest.mark.parametrize("mode", ["released", "paper"])
@pytest.mark.parametrize("steps", [1, 5, 7, 12])
def test_short_clips(mode, steps):
    assert draw(Masking(mode=mode, time=1.0), steps=steps).steps.shape == (steps,)
