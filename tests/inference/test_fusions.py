"""Retrieval through every fusion: what is trained is what validation and evaluation score."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_world import INPUTS, MODEL, SPLITS, finetune, optimiser, source

from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.device import to_device
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.inference.gallery import Gallery
from clip4vla.loading.collate import collate
from clip4vla.loading.loader import Caches, pair_items, samples_of, split_rows
from clip4vla.metrics.text_clip import similarity_name
from clip4vla.models.clip4vla.settings import GATES
from clip4vla.models.clip4vla.tasks import RetrievalTask
from clip4vla.models.common.losses import nce
from clip4vla.training.train import train

CPU = torch.device("cpu")
BOTH = ["vision", "audio"]
TRAINED = [
    ("global_to_local", BOTH, "bert"),
    ("temporal", ["vision"], "clip"),
    ("tight", ["vision"], "clip"),
    ("local_to_local", BOTH, "clip"),
    ("query2feat", BOTH, "clip"),
]
SCORED = [
    *(("global_to_local", modalities, "clip") for modalities in (BOTH, ["vision"], ["audio"])),
    *(("tight", modalities, "bert") for modalities in (BOTH, ["vision"], ["audio"])),
    *(("local_to_local", modalities, "clip") for modalities in (BOTH, ["vision"], ["audio"])),
    *((kind, BOTH, "clip") for kind in GATES),
    ("temporal", ["vision"], "clip"),
]


def model_of(fusion, joint):
    return MODEL.model_copy(update={"fusion": fusion, "joint": joint})


def enlarged(model):
    """The head's weights made larger, so that they decide; in evaluation mode."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.mul_({"fusion": 5.0, "gate": 100.0}.get(name.split(".")[0], 1.0))
    return model.eval()


@pytest.mark.parametrize(("fusion", "modalities", "joint"), SCORED)
def test_a_gallery_is_scored_as_it_is_trained(manifests, fusion, modalities, joint):
    run = finetune(modalities=modalities, missing_audio="none", model=model_of(fusion, joint))
    model = enlarged(initial_model(run.model, INPUTS, None, {}, "retrieval", seed=1))
    cache = Caches(manifests)[run.val]
    pairs = pair_items(split_rows(cache, run.val), "val")[::2]  # v1 is silent
    samples = samples_of(cache, pairs, run.val, INPUTS, modalities, "none")
    batch = to_device(collate([samples[i] for i in range(len(samples))]), CPU)
    bare = copy.copy(model)
    bare._modules = {**model._modules, "gate": None}
    with torch.no_grad():
        loss = RetrievalTask(model, run).loss(batch)[0]
        plain = RetrievalTask(bare, finetune(modalities=modalities)).loss(batch)[0]
    gallery = Gallery(model, samples, run, run.objective.scale, CPU, 1)
    scores = gallery.similarities([caption for _, caption, _ in pairs])[similarity_name(modalities)]
    assert scores.shape == (4, 4)
    found = nce(torch.from_numpy(scores), run.objective.symmetric)
    assert found.item() == pytest.approx(loss.item(), abs=2e-3)
    assert found.item() != pytest.approx(plain.item(), abs=2e-2)  # the head has its say


@pytest.fixture(scope="module", params=TRAINED, ids=lambda given: given[0])
def tuned(request, manifests, tmp_path_factory):
    """A short run of a fusion, selected on val: the run and its outputs."""
    fusion, modalities, joint = request.param
    folder = tmp_path_factory.mktemp(fusion)
    given = {"modalities": modalities, "missing_audio": "none", "model": model_of(fusion, joint)}
    run = finetune(optimiser=optimiser(epochs=1), **given)
    train(run, manifests, None, {}, None, folder / "state", folder / "out")
    return run, folder / "out"


def test_evaluation_gives_the_numbers_of_validation(tuned, manifests, tmp_path):
    run, trained = tuned
    start = trained / "model.safetensors"
    given = {"modalities": run.modalities, "missing_audio": "none", "inputs": INPUTS}
    given |= {"model": run.model, "scale": run.objective.scale}
    for split in ("val", "test"):
        scored = Evaluate(start="a" * 12, task="retrieval", test=source(split), **given)
        evaluate(scored, manifests, start, {}, None, tmp_path / split, run_key="c0ffee")
    found = read_json(tmp_path / "val" / "metrics.json")["galleries"]["all"]
    assert found["metrics"]["t2v_R1"] == read_json(trained / "train.json")["val_value"]
    galleries = read_json(tmp_path / "test" / "metrics.json")["galleries"]
    assert galleries["all"]["n_gallery"] == len(SPLITS["test"])
    assert galleries["with_sound"]["n_gallery"] == len(SPLITS["test"]) - 1


def test_its_head_learns_is_kept_for_evaluation_and_left_for_another_training(tuned):
    run, trained = tuned
    path = trained / "model.safetensors"
    saved = load_file(path)
    head = {name for name in saved if name.startswith(("fusion.", "gate."))}
    kept, fresh, first = (
        dict(initial_model(run.model, INPUTS, start, {}, "retrieval", **given).named_parameters())
        for start, given in ((path, {"trained_head": True}), (path, {}), (None, {}))
    )
    assert head == {name for name in kept if name.startswith(("fusion.", "gate."))}
    assert all(torch.equal(kept[name], saved[name]) for name in saved)
    assert any(not torch.equal(first[name], saved[name]) for name in head)
    assert all(torch.equal(fresh[name], saved[name]) for name in saved if name not in head)
    own = [name for name in head if name.endswith(("type_embedding.weight", "linear.weight"))]
    assert own
    assert all(torch.equal(fresh[name], first[name]) for name in own)


def test_a_head_that_was_never_trained_is_not_evaluated(manifests, trained, tmp_path):
    given = {"missing_audio": "none", "inputs": INPUTS, "model": model_of("tight", "clip")}
    run = Evaluate(start="a" * 12, task="retrieval", test=source("test"), **given)
    with pytest.raises(UserError, match=r"fusion\..*missing"):
        evaluate(run, manifests, trained("retrieval"), {}, None, tmp_path, run_key="c0ffee")


@pytest.mark.parametrize("fusion", ["global_to_local", "tight", "local_to_local", "feat2sim"])
def test_a_fusion_trains_and_scores_in_half_precision(manifests, fusion):
    """bfloat16 on the CPU stands for what autocast does on a GPU."""
    run = finetune(missing_audio="none", model=model_of(fusion, "clip"))
    model = initial_model(run.model, INPUTS, None, {}, "retrieval", seed=1)
    cache = Caches(manifests)[run.val]
    pairs = pair_items(split_rows(cache, run.val), "val")[::2]
    samples = samples_of(cache, pairs, run.val, INPUTS, BOTH, "none")
    batch = collate([samples[i] for i in range(len(samples))])
    captions = [caption for _, caption, _ in pairs]
    gallery = Gallery(model, samples, run, run.objective.scale, CPU, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = RetrievalTask(model, run).loss(batch)[0]
        half = gallery.similarities(captions)["t_va"]
    loss.backward()
    head = [p for n, p in model.named_parameters() if n.startswith(("fusion.joint", "gate."))]
    assert any(p.grad.abs().sum() > 0 for p in head if p.grad is not None)
    whole = gallery.similarities(captions)["t_va"]
    assert half.dtype == np.float32
    assert np.abs(half - whole).max() < 0.03 * np.abs(whole).max() + 0.5
