"""Activation checkpointing and torch.compile: less memory or time, the same training."""

import json
import os
import subprocess
import sys

import pytest
import torch
from gradient_cases import CPU, assert_equal, chunks_of, gradients, make_batch, make_task
from open_clip.transformer import ResidualAttentionBlock
from test_gradients import Kept
from tiny_world import build_world, finetune, optimiser
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json
from clip4vla.loading.loader import Caches
from clip4vla.models.common.bert_block import BertBlock
from clip4vla.training import switches as module
from clip4vla.training import train as train_module
from clip4vla.training.job import External
from clip4vla.training.setup import set_up
from clip4vla.training.switches import (
    Switches,
    check_compiler,
    checkpoint_activations,
    compile_blocks,
)

SINGLE = torch.float32


def stepped(task, chunks):
    """Loss and gradients of a step whose dropout is always the same."""
    torch.manual_seed(3)
    return gradients(task, chunks)


@pytest.mark.parametrize(
    "name", ["stage 1", "stage 2, every term", "global_to_local", "local_to_local", "captions"]
)
def test_recomputed_blocks_have_the_same_bits_with_dropout(name):
    """Frozen towers (stage 1) and, in the second round, gradient caching."""
    task, batch = make_task(name, train=True, dtype=SINGLE), make_batch(4, SINGLE)
    plain = [stepped(task, chunks) for chunks in ([batch], chunks_of(batch, 3))]
    checkpoint_activations(task.model)
    again = [stepped(task, chunks) for chunks in ([batch], chunks_of(batch, 3))]
    for (loss, found), (expected_loss, expected) in zip(again, plain, strict=True):
        assert loss == expected_loss
        for parameter, grad in expected.items():
            assert (grad is None) == (found[parameter] is None)
            assert grad is None or torch.equal(grad, found[parameter]), parameter


@pytest.mark.parametrize("name", ["stage 2, every term", "local_to_local"])
def test_only_the_input_of_a_block_is_kept(name):
    task, batch = make_task(name, train=True, dtype=SINGLE), make_batch(4, SINGLE)

    def kept_by_the_forward_pass():
        kept = Kept(task.model)
        with kept.watching():
            task.loss(batch)
        return kept.most

    plain = kept_by_the_forward_pass()
    checkpoint_activations(task.model)
    assert kept_by_the_forward_pass() < plain / 2


def blocks_of(model):
    return [m for m in model.modules() if isinstance(m, (BertBlock, ResidualAttentionBlock))]


def test_compiled_blocks_keep_their_names():
    """What they compute is in the slow tests: compiling takes long."""
    task = make_task("local_to_local", dtype=SINGLE)
    names = list(task.model.state_dict())
    compile_blocks(task.model)
    assert list(task.model.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in blocks_of(task.model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage 2, every term", "local_to_local", "captions"])
def test_a_compiled_step_is_equal_within_rounding(name):
    task, batch = make_task(name, train=True, dtype=SINGLE), make_batch(8, SINGLE)
    cuts = [[batch], chunks_of(batch, 3), chunks_of(batch, 2)]  # ragged: other numbers of clips
    expected = [stepped(task, chunks) for chunks in cuts]
    compile_blocks(task.model)
    with torch._dynamo.config.patch(error_on_recompile=False):
        found = [stepped(task, chunks) for chunks in cuts]
    for (loss, grads), (expected_loss, expected_grads) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert_equal(grads, expected_grads, 1e-4)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    stepped(task, chunks_of(make_batch(7, SINGLE), 5))  # yet other shapes
    anew = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert anew <= (name == "local_to_local")  # a pass over pairs, whose number is new


def test_a_missing_compiler_is_one_line(monkeypatch):
    def failing(*given, **options):
        raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(UserError, match="No working C.*g\\+\\+.*compile: false") as told:
        check_compiler(CPU)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_refused(tmp_path):
    code = "import torch; from clip4vla.training.switches import check_compiler as c; c(torch.device('cpu'))"
    for compiler, wanted in (("/nowhere/g++", 1), (None, 0)):
        given = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / str(wanted))}
        given |= {"CXX": compiler} if compiler else {}
        done = subprocess.run(
            [sys.executable, "-c", code], env=given, capture_output=True, text=True
        )
        assert done.returncode == wanted, done.stderr
        assert ("UserError: compile: torch.compile does not work" in done.stderr) == bool(wanted)


@pytest.mark.slow
def test_a_run_resumes_with_other_switches(tmp_path, monkeypatch):
    """Stopped after every step, and compiled, checkpointed or neither in turn."""
    monkeypatch.setattr(module, "check_compiler", lambda device: None)
    monkeypatch.setattr(nn.Module, "compile", _traced(nn.Module.compile))
    manifests = build_world(tmp_path / "world")
    run = finetune(val=None, selection="last", missing_audio="none", optimiser=optimiser(epochs=1))
    turns = [Switches(compile=True), Switches(activation_checkpointing=True), Switches()]

    def go(name, **given):
        folder = tmp_path / name
        train_module.train(run, manifests, None, {}, None, folder / "s", folder / "o", **given)
        lines = (folder / "o" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["train/loss"] for line in lines]

    expected, stops = go("plain"), 0
    while True:
        try:
            found = go("mixed", switches=turns[stops % 3], max_seconds=0.0)
            break
        except train_module.RetryLater:
            stops += 1
    assert stops >= 3
    assert found == pytest.approx(expected, rel=1e-5)
    assert read_json(tmp_path / "mixed" / "o" / "cost.json")["attempts"] == stops + 1


@pytest.mark.parametrize("kind, asked", [("cuda", True), ("cpu", False)])
def test_auto_asks_for_a_compiler_on_a_gpu_alone(monkeypatch, kind, asked):
    seen = []
    monkeypatch.setattr(module, "check_compiler", seen.append)
    device, model = torch.device(kind), make_task("stage 1").model
    Switches(compile="auto").apply(model, device)
    assert seen == ([device] if asked else [])
    compiled = {block._compiled_call_impl is not None for block in blocks_of(model)}
    assert compiled == {asked}


def test_auto_trains_uncompiled_without_a_compiler(monkeypatch, capsys):
    def missing(device):
        raise UserError("compile: none here. Fix: install g++")

    monkeypatch.setattr(module, "check_compiler", missing)
    model, gpu = make_task("stage 1").model, torch.device("cuda")
    Switches(compile="auto").apply(model, gpu)
    assert all(block._compiled_call_impl is None for block in blocks_of(model))
    assert capsys.readouterr().err == (
        "clip4vla: warning: this run trains slower, without compiled blocks. compile: none here. Fix: "
        "install g++\n"
    )
    with pytest.raises(UserError, match="none here"):
        Switches(compile=True).apply(model, gpu)


def _traced(compile_):
    return lambda self, **given: compile_(self, **(given | {"backend": "eager"}))


def test_the_switches_reach_the_model(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "check_compiler", seen.append)
    manifests = build_world(tmp_path / "world")
    switches = Switches(activation_checkpointing=True, compile=True)
    around = External(Caches(manifests), None, {}, None, CPU, 1, switches=switches)
    model = set_up(finetune(val=None, selection="last"), around).task.model
    assert seen == [CPU]
    assert model.text.transformer.grad_checkpointing and model.audio.transformer.grad_checkpointing
    assert all(block._compiled_call_impl is not None for block in blocks_of(model))
