"""The study of half weights: what is half, whole runs, resume, labels (facts 6.6, 12.2)."""

import re
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import MODEL, build_world, finetune, optimiser, pretrain

from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.common.files import read_json
from clip4vla.config.run import Evaluate
from clip4vla.config.sections import Optimiser
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.fp16_weights import use_fp16_weights
from clip4vla.training import loop
from clip4vla.training import train as train_module
from clip4vla.training.checkpoint import Checkpoints, TrainState
from clip4vla.training.optimiser import Updates
from clip4vla.training.outputs import OUTPUTS
from clip4vla.training.train import train

HALF = re.compile(  # facts 12.2, under our names
    r"text\.text_projection|(vision|audio)\.(proj|conv1\.weight)"
    r"|(text|vision|audio)\.transformer\.resblocks\.\d+\."
    r"(attn\.(in_proj_(weight|bias)|out_proj\.(weight|bias))|mlp\.c_(fc|proj)\.(weight|bias))"
)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def half(**given):
    return optimiser(kind="bert_adam", precision="half_weights", **given)


def go(run, manifests, folder, start=None, **given):
    train(run, manifests, start, {}, None, folder / "state", folder / "out", **given)
    return folder / "out" / "model.safetensors"


@pytest.mark.parametrize("head", [None, "captioning", "fusion"])
def test_the_weights_that_are_half_in_the_released_code_are_half(head):
    fusion = "global_to_local" if head == "fusion" else "global_to_global"
    model = build_model(MODEL.model_copy(update={"fusion": fusion}), {}, head)
    use_fp16_weights(model)
    for name, parameter in model.named_parameters():
        wanted = torch.float16 if HALF.fullmatch(name) else torch.float32
        assert parameter.dtype is wanted, name


def test_half_towers_give_what_full_ones_give_rounded():
    model = build_model(MODEL, {}).eval()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 400, (2, 6), generator=draw)
    tokens[:, -1] = 49407
    frames = torch.randint(0, 255, (2, 2, 3, 224, 224), dtype=torch.uint8, generator=draw)
    audio, mask = torch.randn(2, 2, 1, 224, 224, generator=draw), torch.ones(2, 2, dtype=torch.bool)

    def features():
        with torch.no_grad():
            return [
                model.encode_text(tokens)[1],
                model.encode_vision(frames, mask),
                model.encode_audio(audio, mask, torch.tensor([0.0, 1.0])),
            ]

    full = features()
    use_fp16_weights(model)
    for one, two in zip(full, features(), strict=True):
        assert two.dtype is torch.float32
        assert 0 < (one - two).abs().max() < 0.02 * one.abs().max()
        assert torch.equal(two, two.half().float())


@pytest.fixture(scope="module")
def pretrained(manifests, tmp_path_factory):
    run = pretrain(trainable="all", optimiser=half(epochs=1))
    return go(run, manifests, tmp_path_factory.mktemp("pretrain"))


def test_the_file_holds_half_weights_and_reads_back_widened(manifests, pretrained):
    found = load_file(pretrained)
    assert {name for name, x in found.items() if x.dtype is torch.float16} == {
        name for name in found if HALF.fullmatch(name)
    }
    model = read_checkpoint(pretrained).model
    for name, parameter in model.named_parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, found[name].float())
    around = train_module.External(
        train_module.Caches(manifests), None, {}, None, torch.device("cpu"), 1
    )
    begun = train_module.set_up(pretrain(trainable="all", optimiser=half()), around).task.model
    learned = {n for n, p in begun.named_parameters() if not torch.equal(p, found[n])}
    assert {"audio.proj", "vision.proj", "text.text_projection", "vision.ln_post.weight"} < learned


def test_the_label_goes_with_the_weights_into_the_metrics(manifests, pretrained, tmp_path):
    given = {"val": None, "selection": "last", "modalities": ["audio"], "start": "a" * 12}
    labels = []
    for name, config in (("full", optimiser), ("half", half)):
        config = config(epochs=1, batch_size=14)
        out = go(finetune(optimiser=config, **given), manifests, tmp_path / name, pretrained)
        labels.append(read_json(out.with_name("train.json"))["half_weights"])
    assert labels == [["pretrain"], ["pretrain", "finetune"]]
    test = {"test": finetune().val, "missing_audio": "filter", "modalities": ["audio"]}
    run = Evaluate(start="b" * 12, task="retrieval", model=MODEL, inputs=finetune().inputs, **test)
    evaluate(run, manifests, out, {}, None, tmp_path, "c" * 12)
    assert read_json(tmp_path / "metrics.json")["half_weights"] == ["pretrain", "finetune"]


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("captioning", {"modalities": ["audio"]}),
        ("retrieval", {}),
        ("classification", {}),
    ],
)
@pytest.mark.slow
def test_a_run_that_is_cut_off_ends_with_the_same_bits(
    manifests, tmp_path, monkeypatch, task, given
):
    """With validation, so that the towers are used as selection uses them, decoding included."""
    run = finetune(task, optimiser=half(epochs=2, microbatch=3), **given)
    go(run, manifests, tmp_path / "whole")
    original, calls = loop.Updates.__call__, []

    def failing(*given):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return original(*given)

    monkeypatch.setattr(loop.Updates, "__call__", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        go(run, manifests, tmp_path / "parts", save_seconds=0.0)
    saved = sorted((tmp_path / "parts" / "state" / "state").glob("step-*.pt"))[-1]
    moments = torch.load(saved, weights_only=True)["optimiser"]["optimiser"]["state"].values()
    types = set(chain.from_iterable((s["m"].dtype, s["v"].dtype) for s in moments))
    assert types == (
        {torch.float32} if task == "classification" else {torch.float16, torch.float32}
    )
    go(run, manifests, tmp_path / "parts", save_seconds=0.0)
    for name in OUTPUTS:
        one, two = (tmp_path / part / "out" / name for part in ("whole", "parts"))
        assert one.read_bytes() == two.read_bytes(), name


def test_a_checkpoint_brings_back_half_weights_and_moments(tmp_path):
    model = build_model(MODEL, {})
    use_fp16_weights(model)
    model.requires_grad_(False)
    model.text.requires_grad_(True)
    tokens = torch.tensor([[49406, 5, 49407], [49406, 7, 49407]])

    def learn(updates, step):
        model.encode_text(tokens)[1].square().mean().backward()
        updates(step)
        return {n: p.detach().clone() for n, p in model.text.named_parameters()}

    config = half(lr=1e-2)
    updates = Updates(model, config, 10)
    learn(updates, 3)
    Checkpoints(tmp_path, {}).save(TrainState(step=4), model, updates)
    first = learn(updates, 4)
    updates = Updates(model, config, 10)
    Checkpoints(tmp_path, {}).load(model, updates)
    moments = {s["v"].dtype for s in updates.optimiser.state.values()}
    assert moments == {torch.float16, torch.float32}
    again = learn(updates, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="studies the released code"):
        Optimiser(precision="half_weights")
    with pytest.raises(ValueError, match="an average in float16 would not change"):
        Optimiser(kind="bert_adam", precision="half_weights", ema=0.99)
