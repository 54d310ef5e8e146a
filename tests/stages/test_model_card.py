"""The model card's line on sound: front-end and standardisation of the model."""

import pytest
import yaml

from clip4vla.config.data import Cache, LogMel
from clip4vla.config.sections import Inputs
from clip4vla.config.settings import Settings
from clip4vla.models.clip4vla.settings import Model
from clip4vla.stages.model_card import model_card


def line(log_mel, inputs):
    """Return the line for weights with these settings."""
    settings = Settings(cache=Cache(log_mel=LogMel(**log_mel)), inputs=Inputs(**inputs))
    metadata = settings.model_dump(mode="json")
    card = model_card(metadata, "ours", "model.safetensors", 1, [], None)
    (found,) = [line for line in card.splitlines() if line.startswith("* Sound: ")]
    return found


def card_of(**metadata):
    settings = Settings(model=Model(type_token="both")).model_dump(mode="json")
    return model_card(settings | metadata, "ours", "m.safetensors", 1, [], None)


def test_a_token_of_pretraining_and_small_batches_are_listed():
    assert "single in pre-training" not in card_of()
    assert "both (single in pre-training)" in card_of(start_type_token="single")
    small = {"pretrain": {"asked": 256, "used": 24}}
    run = {"run_key": "a" * 12, "stage": "pretrain", "selected_epoch": 1, "selection": "last"}
    assert "batches of 24 in place of 256 (pretrain)" in card_of(small_batches=small, **run)


@pytest.mark.parametrize(
    ("task", "tags"),
    [
        (None, ["clip", "audio", "video"]),
        ("retrieval", ["clip", "audio", "video", "text-video-retrieval"]),
        ("captioning", ["clip", "audio", "video", "video-captioning"]),
        ("tagging", ["clip", "audio", "video", "video-classification", "multi-label"]),
    ],
)
def test_tags_are_those_of_the_task(task, tags):
    front = yaml.safe_load(card_of(task=task).split("---")[1])
    assert front["tags"] == tags


def test_names_of_classes_may_contain_commas():
    assert "* classes: rain, bow; sun" in card_of(classes=["rain, bow", "sun"])


def test_an_earlier_type_token_is_labelled():
    """Metadata of any file may come before a training; an invalid one labels nothing."""
    model = Model(type_token="both")
    assert model.labels({"model": {"type_token": "single"}}) == {"start_type_token": "single"}
    for section in (None, "tiny", 3, [1], {"type_token": "both"}):
        assert model.labels({"model": section}) == {}


def test_released_sound_is_in_decibels_with_a_floor():
    assert line({}, {}) == (
        "* Sound: 16000 Hz, of stereo left, mean and right; log-mel (mel: librosa's, in dB) of 224 "
        "bands from 0 to 8000 Hz, hann window of 512 samples every 128, floor 80 dB below the "
        "maximum; at most 10 segments of 224 steps, each standardised by channel."
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "every 128, pre-emphasis 0.97, each window less its mean; at most"),
        ({"preemphasis": 0.5, "remove_dc": False}, "every 128, pre-emphasis 0.5; at most"),
        ({"channels": "mean"}, "of stereo the mean; log-mel (fbank: kaldi's, natural log) of 224"),
    ],
)
def test_the_papers_fbank_has_no_floor(more, words):
    found = line({"kind": "fbank", "window": "hamming"} | more, {})
    assert words in found and "hamming" in found and "dB" not in found


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"standardisation": "clip"}, "deviation of the whole clip, by channel."),
        (
            {"standardisation": "fixed", "log_mel_mean": -4.5, "log_mel_std": 2},
            "steps, less -4.5 and divided by 2.",
        ),
    ],
)
def test_standardisation_is_as_the_inputs_say(inputs, words):
    found = line({}, inputs)
    assert found.endswith(words) and "each standardised" not in found
