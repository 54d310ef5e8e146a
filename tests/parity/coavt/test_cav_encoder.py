"""The joint audio-visual encoder against vectors of CAV-MAE's public code, key by key.

They are in `reference`, or in the folder that COAVT_REFERENCE names: any sizes, the same layout.
"""

import hashlib
import json
import os
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
)

from clip4vla.models.coavt.cav_mae import translate
from clip4vla.models.coavt.encoder import AudioStack, SharedBlocks, VisualStack
from clip4vla.models.coavt.positions import grid_positions
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.common.images import IMAGE_STATISTICS
from clip4vla.models.common.probe import Probe

STORED = Path(__file__).parent / "reference"
FOLDER = Path(os.environ.get("COAVT_REFERENCE", STORED))
DESCRIBED = json.loads((FOLDER / "layout.json").read_text())["files"]["cav_encoder.npz"]
OUTPUTS = [name for name in DESCRIBED["arrays"] if name.startswith("output/")]
TOLERANCE = DESCRIBED["suggested tolerance"]
DTYPE = {"float64": torch.float64, "float32": torch.float32}
TEMPERATURE = 0.05


@pytest.fixture(scope="module")
def vectors():
    with np.load(FOLDER / "cav_encoder.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_vectors_are_those_that_the_layout_describes(vectors):
    content = (FOLDER / "cav_encoder.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == DESCRIBED["sha256"]
    shapes = {name: entry["shape"] for name, entry in DESCRIBED["arrays"].items()}
    assert {name: list(array.shape) for name, array in vectors.items()} == shapes


@pytest.fixture(scope="module")
def sizes(vectors):
    config = DESCRIBED["config"]
    steps, bands = vectors["input/audio"].shape[1:]
    return Sizes(
        width=config["width"],
        heads=config["heads"],
        own_layers=config["own_layers"],
        shared_layers=config["joint_layers"],
        mlp_ratio=config["mlp_ratio"],
        patch=vectors["param/patch_embed_a.proj.weight"].shape[-1],
        image=config["image_size"],
        bands=bands,
        steps=steps,
        **dict.fromkeys(("query_width", "query_layers", "query_heads", "query_ffn"), 0),
        **dict.fromkeys(("vocabulary", "joint_width"), 0),
    )


@pytest.mark.parametrize(("name", "grid"), [("a", "audio_grid"), ("v", "image_grid")])
def test_positions_are_those_of_the_public_code(vectors, sizes, name, grid):
    found = grid_positions(sizes.width, *getattr(sizes, grid))
    assert np.abs(found.numpy() - vectors[f"param/pos_embed_{name}"][0]).max() <= 1e-6


class Encoder(nn.Module):
    """The parts of the model that the vectors cover."""

    def __init__(self, sizes, classes):
        super().__init__()
        settings = {"activation": "gelu", "input_norm": False}
        self.audio = AudioStack(sizes, **settings)
        self.vision = VisualStack(sizes, **settings, statistics=IMAGE_STATISTICS["imagenet"])
        self.shared = SharedBlocks(sizes, activation="gelu", missing="average")
        self.probe = Probe(sizes.width, classes)

    def head(self, tokens):
        """Logits of mean-pooled tokens; `Probe` itself computes in float32."""
        return self.probe.linear(self.probe.norm(tokens.mean(dim=1)))


@pytest.fixture(scope="module", params=DTYPE)
def ours(request, vectors, sizes):
    """Every output by its key, and the precision in which it was computed."""
    dtype = DTYPE[request.param]
    tensors = {name: torch.from_numpy(value).to(dtype) for name, value in vectors.items()}
    parameters = {
        name.removeprefix("param/"): value
        for name, value in tensors.items()
        if name.startswith("param/")
    }
    model = Encoder(sizes, DESCRIBED["config"]["classes"]).to(dtype)
    model.load_state_dict(translate(parameters).tensors)  # strict
    present = torch.ones(len(tensors["input/audio"]), 1, dtype=torch.bool)
    audio, frames = tensors["input/audio"][:, None, None], tensors["input/image"][:, None]
    own = {"audio": model.audio(audio, present), "vision": model.vision(frames, present)}
    streams = model.shared(own)
    found = {
        "patch_tokens_audio": patches(model.audio, audio[:, 0].transpose(-1, -2)),
        "patch_tokens_visual": patches(model.vision, frames[:, 0]),
        "own_tokens_audio": own["audio"].features,
        "own_tokens_visual": own["vision"].features,
    }
    for letter, stream in (("a", "audio"), ("v", "vision"), ("av", "av")):
        tokens = streams[stream].features
        found |= {f"tokens_{letter}": tokens, f"mean_{letter}": tokens.mean(dim=1)}
        found[f"logits_{letter}"] = model.head(tokens)
    for mode, kept in (("without_picture", "audio"), ("without_sound", "vision")):
        half = {n: x if n == kept else x._replace(mask=x.mask & False) for n, x in own.items()}
        tokens, mask = model.shared(half, streams=("av",))["av"]
        chosen = tokens[mask].unflatten(0, (len(tokens), -1))
        found[f"logits_av_{mode}"] = model.head(chosen)
    found |= contrasts(found["mean_a"], found["mean_v"])
    targets = tensors["input/multi_hot"], tensors["input/class_index"].long()
    found["loss_bce"] = binary_cross_entropy_with_logits(found["logits_av"], targets[0])
    found["loss_ce"] = cross_entropy(found["logits_av"], targets[1])
    found |= gradients(model, found["contrast_two_way"] + found["loss_bce"], parameters)
    return SimpleNamespace(outputs=found, precision=request.param, model=model, streams=streams)


def patches(stack, images):
    """Projected patches, before positions and the modality vector."""
    return stack.embed(images) - stack.positions - stack.modality


def contrasts(audio, vision):
    similarity = cosine_similarity(audio[:, None], vision[None], dim=-1)
    logits, own = similarity / TEMPERATURE, torch.arange(len(audio))
    by_picture, by_sound = cross_entropy(logits.T, own), cross_entropy(logits, own)
    right = [(x.argmax(dim=1) == own).double().mean() for x in (logits.T, logits)]
    return {
        "similarity_audio_to_visual": similarity,
        "contrast_one_way": by_picture,
        "contrast_one_way_accuracy": right[0],
        "contrast_two_way": (by_picture + by_sound) / 2,
        "contrast_two_way_accuracy": (right[0] + right[1]) / 2,
    }


def gradients(model, loss, parameters):
    """Gradients under the names of the public code."""
    learned = dict(model.named_parameters())
    found = {}
    for name in [key.removeprefix("output/grad/") for key in OUTPUTS if "/grad/" in key]:
        (ours,) = translate({name: parameters[name]}).tensors
        (gradient,) = torch.autograd.grad(loss, learned[ours], retain_graph=True)
        found[f"grad/{name}"] = gradient.view_as(parameters[name])
    return found


def close(ours, theirs, precision):
    ours, theirs = np.asarray(ours.detach(), np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    worst = (np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max()
    assert worst <= TOLERANCE[precision], f"worst difference {worst:.3g}"


@pytest.mark.parametrize("key", OUTPUTS)
def test_vector(vectors, ours, key):
    close(ours.outputs[key.removeprefix("output/")], vectors[key], ours.precision)


def test_the_probe_reads_the_joint_stream(vectors, ours):
    logits = deepcopy(ours.model.probe).float()({"av": ours.streams["av"]})
    close(logits, vectors["output/logits_av"], "float32")
