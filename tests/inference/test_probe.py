"""What a probe is given of a clip, and how its answers are counted."""

import numpy as np
import pytest
import torch

from clip4vla.inference.features import ClipFeatures
from clip4vla.inference.probe import probe_batch
from clip4vla.metrics.classification import accuracy, report_accuracy
from clip4vla.models.common.probe import probed


@pytest.mark.parametrize("has", ["vision", "audio", "vision audio"])
def test_a_probe_is_given_every_modality_that_there_is(has):
    vision, audio = torch.arange(6.0).view(3, 2), -torch.arange(6.0).view(3, 2)
    heard = torch.tensor([True, False, True])
    vectors = {"vision": vision, "audio": audio}
    present = {"vision": torch.ones(3, dtype=torch.bool), "audio": heard}
    features = ClipFeatures(
        clip_ids=["a", "b", "c"],
        vectors={name: vectors[name] for name in has.split()},
        present={name: present[name] for name in has.split()},
    )
    found = probed(None, probe_batch(features, torch.tensor([2, 1])), ())
    assert list(found) == has.split()
    for name, (x, mask) in found.items():
        assert torch.equal(x, vectors[name][[2, 1], None])
        assert mask.tolist() == [[True], [name == "vision"]]


def test_accuracy_is_a_share_in_percent():
    labels, predicted = np.array(["dog", "cat", "cow"]), np.array(["dog", "cow", "cat"])
    assert accuracy(labels, predicted) == pytest.approx(100 / 3)
    stated = report_accuracy(labels, predicted)
    assert stated["metrics"] == {"accuracy": pytest.approx(100 / 3)}
    low, high = stated["intervals"]["accuracy"]
    assert (low, high) == (0.0, 100.0)  # of three clips
