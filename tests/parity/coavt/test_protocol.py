"""The protocol of CAV-MAE against vectors of its public code.

They are in `reference`, or in the folder that COAVT_REFERENCE names: any sizes, the same layout.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from clip4vla.cache.log_mel import LogMelFrontend
from clip4vla.config.data import LogMel
from clip4vla.loading.augment import mix_waveforms
from clip4vla.loading.sampling import balancing_weights
from clip4vla.loading.targets import mixed, smoothed
from clip4vla.metrics.classification import accuracy
from clip4vla.metrics.recalls import RECALLS, rank_metrics, tied_places
from clip4vla.metrics.retrieval import clip_ranks
from clip4vla.metrics.tagging import class_scores, d_prime, report_tagging
from clip4vla.models.common.pooling import normalise
from clip4vla.models.common.similarity import across

STORED = Path(__file__).parent / "reference"
FOLDER = Path(os.environ.get("COAVT_REFERENCE", STORED))
TOLERANCE = {"float64": 2e-6, "float32": 5e-5}  # suggested beside the other vectors
SMOOTHING = 0.1
MEAN, DEVIATION = -5.081, 4.4849  # of AudioSet's log-mels
FRONT_END = LogMel(
    kind="fbank",
    channels="mean",
    sample_rate=16_000,
    n_fft=400,
    hop=160,
    n_mels=128,
    f_min=20.0,
    f_max=8000.0,
    window="hann",
)


@pytest.fixture(scope="module")
def vectors():
    with np.load(FOLDER / "protocol.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def close(ours, theirs, precision="float64"):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert (np.isnan(ours) == np.isnan(theirs)).all()
    worst = np.nan_to_num(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max()
    assert worst <= TOLERANCE[precision], f"worst difference {worst:.3g}"


def test_the_vectors_are_those_that_the_layout_describes(vectors):
    if not (FOLDER / "layout.json").exists():
        pytest.skip("the vectors came without a layout.json")
    described = json.loads((FOLDER / "layout.json").read_text())["files"]["protocol.npz"]
    content = (FOLDER / "protocol.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == described["sha256"]
    shapes = {name: entry["shape"] for name, entry in described["arrays"].items()}
    assert {name: list(array.shape) for name, array in vectors.items()} == shapes


@pytest.fixture(scope="module")
def tagging(vectors):
    targets, scores = vectors["metrics/targets"] > 0, vectors["metrics/scores"]
    classes = [f"class{c}" for c in range(targets.shape[1])]
    clip_ids = [f"clip{n}" for n in range(len(targets))]
    return {"targets": targets, "scores": scores, "classes": classes, "clip_ids": clip_ids}


def test_average_precision_and_auc(vectors, tagging):
    """A class without positives has 0 there, and here none."""
    found, theirs = class_scores(**tagging), vectors["metrics/average_precision"]
    absent = found.positives == 0
    close(found.average_precision[~absent], theirs[~absent])
    assert np.isnan(found.average_precision[absent]).all() and not theirs[absent].any()
    close(found.auc, vectors["metrics/auc"])


def test_means_over_classes(vectors, tagging):
    """Absent classes pull the released mAP down; ours counts them instead."""
    stated, classes = report_tagging(**tagging).stated, len(tagging["classes"])
    counted = stated["classes"]["counted"]
    assert counted + stated["classes"]["without_positives"] == classes
    close(stated["metrics"]["mAP"] / 100 * counted / classes, vectors["metrics/map_as_released"])
    theirs = vectors["metrics/d_prime_of_mean_auc_of_classes_with_positives"]
    close(stated["classes"]["d_prime"], theirs)
    close(d_prime(stated["metrics"]["mAUC"] / 100), theirs)


def test_accuracy(vectors):
    label, predicted = (vectors[f"metrics/{x}"].argmax(axis=1) for x in ("targets", "scores"))
    close(accuracy(label, predicted) / 100, vectors["metrics/accuracy"])


@pytest.fixture(scope="module")
def cosines(vectors):
    """Of every sound (a row) with every picture."""
    audio, visual = (
        normalise(torch.from_numpy(vectors[f"retrieval/{name}"]).double())
        for name in ("audio", "visual")
    )
    return across({"audio": audio}, {"vision": visual}, 1.0)["a_v"].numpy()


def test_similarity(vectors, cosines):
    close(cosines, vectors["retrieval/similarity"])


def counted(ranks, metrics_of):
    """Return R@1, R@5, R@10 and the median rank by a rule for ties."""
    found = metrics_of(ranks, "x")
    return [*(found[f"x_R{k}"] / 100 for k in RECALLS[:3]), found["x_MedR"]]


def ranks_of(similarity):
    return clip_ranks(similarity, np.arange(len(similarity)))


@pytest.mark.parametrize("direction", ["audio_to_visual", "visual_to_audio"])
def test_retrieval_without_ties(vectors, direction):
    """Without ties the rule of the released code and ours agree."""
    similarity = vectors["retrieval/similarity"]
    ranks = ranks_of(similarity if direction == "audio_to_visual" else similarity.T)
    theirs = vectors[f"retrieval/{direction}_r1_r5_r10_medr"]
    assert ranks.tied == 0
    close(counted(ranks, tied_places), theirs)
    close(counted(ranks, rank_metrics), theirs)


def test_retrieval_with_ties(vectors):
    """Ties add rows there, so that R@k is no share of the queries: our extra `released`."""
    ranks = ranks_of(vectors["retrieval/with_two_equal_columns"])
    assert ranks.tied > 0
    theirs = vectors["retrieval/with_two_equal_columns_r1_r5_r10_medr"]
    close(counted(ranks, tied_places), theirs)
    assert counted(ranks, rank_metrics) != pytest.approx(theirs, abs=1e-3)


def test_sampling_weights(vectors):
    labels = [np.flatnonzero(row).tolist() for row in vectors["sampling/labels"]]
    close(balancing_weights(labels), vectors["sampling/weights"])


def test_targets(vectors):
    """Smoothed, mixed, and of evaluation."""
    alone = [vectors[f"loader/target{i}_smoothed"] for i in (0, 1)]
    hot = [torch.from_numpy(target > 0.5).double() for target in alone]
    share = float(vectors["loader/mix_share_of_own"])
    for own, other in ((0, 1), (1, 0)):
        close(smoothed(hot[own], SMOOTHING), alone[own])
        both = mixed(hot[own], hot[other], share, SMOOTHING)
        close(both, vectors[f"loader/mixed{own}_target"])
    close(smoothed(hot[0], 0.0), vectors["loader/target0_evaluation"])


def standardised(waveform, frames):
    """Return the log-mel [frames, n_mels] of a waveform, padded or cut before standardisation."""
    log_mel = LogMelFrontend(FRONT_END).compute(waveform, FRONT_END.sample_rate)[0][:frames]
    padded = torch.nn.functional.pad(log_mel, (0, 0, 0, frames - len(log_mel)))
    return (padded - MEAN) / DEVIATION


@pytest.mark.parametrize("own", [0, 1])
def test_log_mels_of_a_waveform_and_of_two_mixed(vectors, own):
    waveforms = [torch.from_numpy(vectors[f"loader/waveform{i}"]) for i in (own, 1 - own)]
    theirs = vectors[f"loader/log_mel{own}"]
    first = waveforms[0]
    close(standardised(first - first.mean(), len(theirs)), theirs, "float32")
    both = mix_waveforms(first, waveforms[1], float(vectors["loader/mix_share_of_own"]))
    theirs = vectors[f"loader/mixed{own}_log_mel"]
    close(standardised(both, len(theirs)), theirs, "float32")
