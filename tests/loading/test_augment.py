"""Augmentation: each step against its definition, or torchaudio's."""

import numpy as np
import pytest
import torch
import torchaudio

from clip4vla.loading.augment import (
    add_noise,
    augmentation_rng,
    draw_mixture,
    mask_log_mel,
    mix_waveforms,
    roll_steps,
)


class Scripted:
    """A generator that gives these numbers in turn."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


@pytest.mark.parametrize("case", range(40))
def test_masks_are_those_of_torchaudio(case, monkeypatch):
    numbers = np.random.default_rng(case).random(4).astype(np.float32).tolist()
    log_mel = torch.arange(1.0, 2 * 90 * 40 + 1).reshape(2, 90, 40)
    found = mask_log_mel(log_mel, 12, 60, Scripted(*numbers))
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.tensor([numbers.pop(0)]))
    turned = log_mel.transpose(1, 2)  # [C, F, T], as torchaudio has them
    turned = torchaudio.transforms.FrequencyMasking(12)(turned)
    turned = torchaudio.transforms.TimeMasking(60)(turned)
    assert not numbers
    assert torch.equal(found, turned.transpose(1, 2))


def test_masks_fit_a_log_mel_that_is_shorter():
    for case in range(50):
        log_mel = torch.ones(1, 5, 7)
        found = mask_log_mel(log_mel, 48, 192, np.random.default_rng(case))
        assert found.shape == log_mel.shape and log_mel.all()
    whole = mask_log_mel(torch.ones(1, 5, 7), 0, 192, Scripted(0.5, 0.5, 0.99, 0.5))
    assert not whole.any()
    none = mask_log_mel(torch.ones(1, 5, 7), 0, 0, np.random.default_rng(0))
    assert none.all()


def test_noise_is_uniform_and_in_standard_deviations():
    rows = []
    for case in range(200):
        added = add_noise(torch.zeros(1, 30, 20), 4.0, np.random.default_rng(case))
        assert added.min() >= 0 and added.max() < 0.4
        rows.append(float(added.mean()))
    assert np.mean(rows) == pytest.approx(0.1, abs=0.01)
    assert min(rows) < 0.02 and max(rows) > 0.18  # the strength is drawn too


def test_rolled_steps_are_the_same_steps_and_any_shift_comes():
    log_mel = torch.arange(6.0)[None, :, None].expand(2, 6, 3)
    firsts = set()
    for case in range(60):
        found = roll_steps(log_mel, np.random.default_rng(case))
        firsts.add(float(found[0, 0, 0]))
        assert torch.equal(found.sort(dim=1).values, log_mel)
        steps = found[1, :, 2].tolist()
        assert all((b - a) % 6 == 1 for a, b in zip(steps, steps[1:], strict=False))
    assert firsts == set(range(6))


def test_mixtures_have_half_of_the_clips_and_shares_around_one_half():
    found = [draw_mixture(10, 0.5, augmentation_rng("mix", 0, 0, f"clip{i}")) for i in range(2000)]
    mixed = [mixture for mixture in found if mixture]
    assert len(mixed) == pytest.approx(1000, abs=70)
    assert {mixture.other for mixture in mixed} == set(range(10))
    shares = np.array([mixture.share for mixture in mixed])
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.std() == pytest.approx(0.5 / np.sqrt(21), abs=0.01)  # of Beta(10, 10)
    always, never = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_mixture(10, 1.0, always) and draw_mixture(10, 0.0, never) is None


def test_a_generator_depends_on_all_that_names_it():
    first = {"purpose": "mix", "seed": 0, "epoch": 0, "clip_id": "a", "number": 0}
    others = ({"purpose": "noise"}, {"seed": 1}, {"epoch": 1}, {"clip_id": "b"}, {"number": 1})
    drawn = {augmentation_rng(**(first | other)).random() for other in ({}, *others)}
    assert len(drawn) == 1 + len(others)
    again = augmentation_rng(purpose="mix", seed=0, epoch=0, clip_id="a")
    assert augmentation_rng(**first).random() == again.random()


@pytest.mark.parametrize("length", [3, 5, 8])
def test_waveforms_are_mixed_without_their_means_at_the_own_length(length):
    own, other = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0]]), torch.arange(length)[None].float()
    fitted = torch.zeros(1, 5)
    fitted[0, : min(length, 5)] = (other - other.mean())[0, :5]
    expected = 0.25 * (own - own.mean()) + 0.75 * fitted
    found = mix_waveforms(own, other, 0.25)
    assert torch.allclose(found, expected - expected.mean())
    assert abs(float(found.mean())) < 1e-6


def test_a_mono_waveform_is_mixed_into_both_channels():
    stereo, mono = torch.randn(2, 50), torch.randn(1, 40)
    found = mix_waveforms(stereo, mono, 0.5)
    for channel in (0, 1):
        alone = mix_waveforms(stereo[channel : channel + 1], mono, 0.5)
        assert torch.allclose(found[channel], alone[0])
    assert mix_waveforms(mono, stereo, 0.5).shape == (2, 40)
    assert mix_waveforms(torch.zeros(1, 0), mono, 0.5).shape == (1, 0)
