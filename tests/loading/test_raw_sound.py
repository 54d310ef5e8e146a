"""Sound that the model standardises itself: half the bytes, the same features."""

from dataclasses import replace

import pytest
import torch
from features_fakes import CLIPS
from tiny_world import INPUTS, MODEL

from clip4vla.config.sections import Inputs, Masking
from clip4vla.loading.collate import collate
from clip4vla.loading.masking import masked
from clip4vla.loading.samples import ClipSamples
from clip4vla.models.clip4vla.build import build_model

ITEMS = [(clip_id, "a sound", ()) for clip_id in sorted(CLIPS)]


@pytest.fixture(scope="module")
def model():
    return build_model(MODEL, {}, None, seed=2, inputs=INPUTS).eval()


def samples_of(cache, **inputs):
    """Mono, stereo and silent clips, with masks."""
    inputs = Inputs(**{"max_segments": 4} | inputs)
    return [*ClipSamples(cache, ITEMS, inputs, 0.5, masking=Masking(), training=True)]


@pytest.mark.parametrize("view", ["audio", "masked_audio"])
@pytest.mark.parametrize(
    "inputs",
    [
        {"pad_value": "zero"},
        {"pad_value": "min"},
        {"extra_segment": True},
        {"max_segments": 1, "train_crop": True},
    ],
    ids=str,
)
def test_the_features_are_those_of_standardised_sound(cache, model, view, inputs):
    """The masked copy is made of the sound and its masks, which do not cover padding."""
    samples = samples_of(cache, **inputs)
    raw, standardised = model.processor.collate(samples), collate(samples)
    assert "masked_audio" not in raw
    raw["masked_audio"] = masked(raw)
    assert raw[view].dtype is torch.float16 and standardised[view].dtype is torch.float32
    with torch.no_grad():
        found, expected = (
            model.encode_audio(batch[view], batch["audio_mask"], batch["nonverbal_share"])
            for batch in (raw, standardised)
        )
    assert expected.any() and torch.equal(found, expected)


def test_sound_of_other_statistics_or_precision_is_standardised_before(cache, model):
    fixed = {"standardisation": "fixed", "log_mel_mean": -40.0, "log_mel_std": 20.0}
    for samples in (samples_of(cache, standardisation="clip"), samples_of(cache, **fixed)):
        assert torch.equal(model.processor.collate(samples)["audio"], collate(samples)["audio"])
    varied = [
        replace(sample, log_mel=sample.log_mel.float()) if sample.clip_id == "alpha" else sample
        for sample in samples_of(cache)
    ]
    assert torch.equal(model.processor.collate(varied)["audio"], collate(varied)["audio"])
