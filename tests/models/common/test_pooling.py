import pytest
import torch
from encoded_clips import encoded_clips
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.models.common.pooling import masked_mean, normalise, pool
from clip4vla.models.common.probe import Probe
from clip4vla.models.common.similarity import similarities


def some(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_pool_by_hand():
    """Facts 5.1: each position to unit length, mean of the valid ones, unit length again."""
    features = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]]])
    expected = torch.tensor([0.3, 0.9])  # mean of (0.6, 0.8) and (0, 1)
    ours = pool(features, torch.tensor([[True, True, False]]))
    assert torch.allclose(ours[0], expected / expected.norm(), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 4), st.permutations(range(4)))
def test_padding_and_order_change_no_clip(seed, length, padding, order):
    features = some(seed, 4, length, 6)
    mask = some(seed + 1, 4, length) > -0.3
    pooled = pool(features, mask)
    padded = torch.cat([features, some(seed + 2, 4, padding, 6)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(4, padding, dtype=torch.bool)], dim=1)
    assert torch.allclose(pool(padded, padded_mask), pooled, atol=1e-6)
    assert torch.allclose(pool(features[list(order)], mask[list(order)]), pooled[list(order)])
    lengths = pooled.norm(dim=-1)
    assert torch.allclose(lengths, mask.any(dim=1).float(), atol=1e-5)


def test_a_clip_without_valid_positions_gives_zeros_and_finite_gradients():
    features = torch.zeros(1, 2, 4, requires_grad=True)
    pooled = pool(features, torch.zeros(1, 2, dtype=torch.bool))
    pooled.sum().backward()
    assert pooled.eq(0).all() and features.grad.eq(0).all()


def test_three_similarities_and_their_mean():
    text, vision, audio = (normalise(some(i, n, 8)) for i, n in [(1, 5), (2, 3), (3, 3)])
    ours = similarities(text, vision, audio, scale=100.0)
    assert torch.allclose(ours["t_v"], 100 * text @ vision.T)
    assert torch.allclose(ours["t_a"], 100 * text @ audio.T)
    mean_of_vectors = 100 * text @ ((vision + audio) / 2).T  # not normalised again (facts 7.1)
    assert torch.allclose(ours["t_va"], mean_of_vectors, atol=1e-4)
    assert set(similarities(text, vision, None, 100.0)) == {"t_v"}
    assert set(similarities(text, None, audio, 100.0)) == {"t_a"}


def test_fully_masked_audio_halves_the_mean_unless_it_is_left_out():
    text, vision = normalise(some(1, 4, 8)), normalise(some(2, 2, 8))
    audio = torch.cat([normalise(some(3, 1, 8)), torch.zeros(1, 8)])
    released = similarities(text, vision, audio, 100.0)
    assert released["t_a"][:, 1].eq(0).all()
    assert torch.allclose(released["t_va"][:, 1], released["t_v"][:, 1] / 2)
    left_out = similarities(text, vision, audio, 100.0, has_audio=torch.tensor([True, False]))
    assert torch.equal(left_out["t_va"][:, 1], left_out["t_v"][:, 1])
    assert torch.equal(left_out["t_va"][:, 0], released["t_va"][:, 0])


def test_similarities_stay_in_float32_under_autocast():
    text, vision = normalise(some(1, 4, 8)), normalise(some(2, 2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        ours = similarities(text, vision, None, 100.0)["t_v"]
    assert torch.equal(ours, similarities(text, vision, None, 100.0)["t_v"])


@pytest.fixture(scope="module")
def probe():
    torch.manual_seed(0)
    return Probe(6, 3)


def test_the_probe_averages_the_modalities_that_a_clip_has(probe):
    vision, audio = some(1, 2, 3, 6), some(2, 2, 2, 6)
    seen = torch.ones(2, 3, dtype=torch.bool)
    heard = torch.tensor([[True, False], [False, False]])
    ours = probe(encoded_clips(vision, seen, audio, heard))
    both = (vision[0].mean(0) + audio[0, 0]) / 2
    assert torch.allclose(ours[0], probe.linear(probe.norm(both)), atol=1e-6)
    assert torch.allclose(ours[1], probe(encoded_clips(vision, seen, None, None))[1], atol=1e-6)
    only_audio = probe(encoded_clips(None, None, audio, heard))
    assert torch.allclose(only_audio[0], probe.linear(probe.norm(audio[0, 0])), atol=1e-6)


def test_masked_mean_is_of_un_normalised_features():
    features, mask = some(1, 2, 3, 6), torch.tensor([[True, True, False], [False, False, True]])
    assert torch.allclose(masked_mean(features, mask)[0], features[0, :2].mean(0), atol=1e-6)
    assert torch.allclose(masked_mean(features, mask)[1], features[1, 2], atol=1e-6)
