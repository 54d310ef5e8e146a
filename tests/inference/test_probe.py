"""What a probe is given of a clip, and how its answers are counted."""

import numpy as np
import pytest
import torch

from clip4vla.inference.features import ClipFeatures
from clip4vla.inference.probe import probe_batch
from clip4vla.metrics.classification import accuracy, report_accuracy


@pytest.mark.parametrize("has", ["vision", "audio", "vision audio"])
def test_a_probe_is_given_every_modality_that_there_is(has):
    vision, audio = torch.arange(6.0).view(3, 2), -torch.arange(6.0).view(3, 2)
    heard = torch.tensor([True, False, True])
    features = ClipFeatures(
        clip_ids=["a", "b", "c"],
        vision=vision if "vision" in has else None,
        audio=audio if "audio" in has else None,
        has_audio=torch.ones(3, dtype=torch.bool),
        heard=heard,
    )
    index = torch.tensor([2, 1])
    batch = probe_batch(features, index)
    assert set(batch["features"]) == set(has.split())
    assert batch["frame_mask"].tolist() == [[True], [True]]
    assert batch["audio_mask"].tolist() == [[True], [False]]
    for name, rows in (("vision", vision), ("audio", audio)):
        if name in has:
            assert torch.equal(batch["features"][name], rows[[2, 1], None])


def test_accuracy_is_a_share_in_percent():
    labels, predicted = np.array(["dog", "cat", "cow"]), np.array(["dog", "cow", "cat"])
    assert accuracy(labels, predicted) == pytest.approx(100 / 3)
    stated = report_accuracy(labels, predicted)
    assert stated["metrics"] == {"accuracy": pytest.approx(100 / 3)}
    low, high = stated["intervals"]["accuracy"]
    assert (low, high) == (0.0, 100.0)  # of three clips
