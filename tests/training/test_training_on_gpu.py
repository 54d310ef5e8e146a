"""Training on a GPU: the gradients of the CPU, half precision, dropout, memory, whole runs, resume."""

import contextlib
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from gradient_cases import assert_equal, chunks_of, gradients, make_batch, make_task
from safetensors.torch import load_file
from tiny_world import build_world, finetune, optimiser, pretrain

from clip4vla.common import device as device_module
from clip4vla.common.errors import RetryLater
from clip4vla.common.files import read_json
from clip4vla.common.gpus import _gpus
from clip4vla.common.hardware import ReadingHardware
from clip4vla.models.common.batch_features import joined
from clip4vla.training import gradients as gradients_module
from clip4vla.training import loop
from clip4vla.training import train as train_module
from clip4vla.training.not_finite import dump
from clip4vla.training.ranks import Ranks
from clip4vla.training.switches import (
    Switches,
    check_compiler,
    checkpoint_activations,
    compile_blocks,
)

pytestmark = pytest.mark.gpu
SINGLE = torch.float32
CASES = ["stage 1", "stage 2, every term", "global_to_local", "tight", "feat2feat", "captions"]
# The gradients of an untrained local_to_local are smaller than the rounding of 8 bits.
IN_HALF = [(name, 0.2) for name in CASES if name != "tight"] + [("local_to_local", math.inf)]


@pytest.fixture
def single(monkeypatch):
    """Steps in float32."""
    monkeypatch.setattr(gradients_module, "autocast", lambda *given: contextlib.nullcontext())


def on(gpu, name, train=False):
    task = make_task(name, train, SINGLE)
    task.model.to(gpu)
    return task


def seen_from(gpu, task, chunks, seed=3):
    """Loss and gradients of a step on the GPU, on the CPU; its dropout is always the same."""
    torch.manual_seed(seed)
    loss, found = gradients(task, chunks, device=gpu)
    return loss, {name: g if g is None else g.float().cpu() for name, g in found.items()}


@pytest.mark.parametrize("name", [*CASES, "local_to_local"])
def test_gradients_are_those_of_the_cpu(gpu, single, name):
    batch = make_batch(5, SINGLE)
    expected = gradients(make_task(name, dtype=SINGLE), [batch])
    for chunks in ([batch], chunks_of(batch, 2)):
        loss, found = seen_from(gpu, on(gpu, name), chunks)
        assert loss == pytest.approx(expected[0], rel=1e-4)
        assert_equal(found, expected[1], 1e-3)


@pytest.mark.parametrize(("name", "tolerance"), IN_HALF)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_it(gpu, name, tolerance, half, monkeypatch):
    task, batch = on(gpu, name), make_batch(5, SINGLE)
    monkeypatch.setattr(device_module, "half_type", lambda device: half)
    expected = gradients(make_task(name, dtype=SINGLE), [batch])
    for chunks in ([batch], chunks_of(batch, 2)):
        loss, found = seen_from(gpu, task, chunks)
        assert loss == pytest.approx(expected[0], rel=0.05)
        assert_equal(found, expected[1], tolerance)


@pytest.mark.parametrize("name", ["global_to_local", "local_to_local"])
def test_dropout_is_the_same_when_a_chunk_is_encoded_again(gpu, single, name):
    task, chunks = on(gpu, name, train=True), chunks_of(make_batch(5, SINGLE), 2)
    moved = [device_module.to_device(chunk, gpu) for chunk in chunks]
    torch.manual_seed(7)
    task.model.zero_grad(set_to_none=True)
    loss, _ = task.objective(joined([task.encode(chunk) for chunk in moved]))
    loss.backward()
    after = torch.rand(3, device=gpu)
    expected = {
        n: p.grad if p.grad is None else p.grad.cpu() for n, p in task.model.named_parameters()
    }
    value, found = seen_from(gpu, task, chunks, seed=7)
    assert torch.equal(torch.rand(3, device=gpu), after)  # the next step draws anew
    assert value == pytest.approx(loss.item(), rel=1e-5)
    assert_equal(found, expected, 1e-4)
    assert seen_from(gpu, task, chunks, seed=8)[0] != pytest.approx(value, rel=1e-6)


def steps_are_kept(gpu, name, change, tolerance):
    """Whole steps and those of gradient caching, before and after a change of the model."""
    task, batch = on(gpu, name, train=True), make_batch(8, SINGLE)
    cuts = [[batch], chunks_of(batch, 3)]
    expected = [seen_from(gpu, task, chunks) for chunks in cuts]
    change(task.model)
    for (loss, gradient), chunks in zip(expected, cuts, strict=True):
        again = seen_from(gpu, task, chunks)
        assert again[0] == pytest.approx(loss, rel=1e-3)
        assert_equal(again[1], gradient, tolerance)


@pytest.mark.parametrize("name", ["stage 1", "stage 2, every term", "local_to_local", "captions"])
def test_recomputed_blocks_change_nothing(gpu, name):
    """In half precision, with dropout."""
    steps_are_kept(gpu, name, checkpoint_activations, 2e-2)


@pytest.mark.parametrize("name", ["stage 2, every term", "local_to_local", "captions"])
def test_a_compiled_step_is_equal_within_rounding(gpu, single, name):
    check_compiler(gpu)
    steps_are_kept(gpu, name, compile_blocks, 1e-2)


def test_compiled_and_recomputed_blocks_train_in_half_precision(gpu):
    task, batch = on(gpu, "stage 2, every term", train=True), make_batch(8, SINGLE)
    loss, _ = seen_from(gpu, task, [batch])
    checkpoint_activations(task.model)
    compile_blocks(task.model)
    again, found = seen_from(gpu, task, [batch])
    assert again == pytest.approx(loss, rel=0.05)
    assert all(g is None or g.isfinite().all() for g in found.values())


def test_memory_is_that_of_a_chunk(gpu, single):
    task, batch = on(gpu, "stage 2, every term"), make_batch(8, SINGLE)

    def most(chunks):
        task.model.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats(gpu)
        before = torch.cuda.memory_allocated(gpu)
        gradients(task, chunks, device=gpu)
        return torch.cuda.max_memory_allocated(gpu) - before

    most([batch])  # what libraries take for themselves
    assert most(chunks_of(batch, 1)) < most([batch]) / 2


def test_what_is_not_finite_is_found(gpu, tmp_path):
    batch = {k: x.clone() if torch.is_tensor(x) else x for k, x in make_batch(8, SINGLE).items()}
    batch["audio"][3, 1, 0, 5, 7] = math.nan
    found = dump(tmp_path, on(gpu, "stage 1"), [batch], gpu, 5, Ranks())
    assert found == "clips with inputs or features that are not finite: x"
    report = read_json(tmp_path / "report.json")
    assert report["precision"] == str(device_module.half_type(gpu)).removeprefix("torch.")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


RUNS = {
    "pretrain": pretrain(optimiser=optimiser(epochs=8)),
    "pretrain, all": pretrain(trainable="all", optimiser=optimiser(lr=1e-4, microbatch=2)),
    "retrieval": finetune(optimiser=optimiser(epochs=4)),
    "captioning": finetune(
        "captioning", val=None, selection="last", optimiser=optimiser(epochs=4, ema=0.9)
    ),
    "classification": finetune("classification", optimiser=optimiser(epochs=4)),
    "tagging, all": finetune(
        "tagging",
        trainable="all",
        sampling="balanced",
        label_smoothing=0.1,
        val=None,
        selection="last",
        optimiser=optimiser(epochs=4, schedule="step", step_from=2, average_epochs=(2, 4)),
    ),
    "half weights": finetune(optimiser=optimiser(kind="bert_adam", precision="half_weights")),
}


def go(run, manifests, folder, **given):
    train_module.train(run, manifests, None, {}, None, folder / "state", folder / "out", **given)
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    return [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]


@pytest.mark.parametrize("name", RUNS)
def test_whole_runs(gpu, manifests, tmp_path, name):
    """Written as on the CPU, near its curve, paid in GPU hours."""
    losses = go(RUNS[name], manifests, tmp_path / "gpu", hardware=ReadingHardware(threads=4))
    expected = go(RUNS[name], manifests, tmp_path / "cpu", hardware=ReadingHardware("cpu", 1))
    assert losses[0] == pytest.approx(expected[0], rel=0.05)
    assert all(map(math.isfinite, losses)) and len(losses) == len(expected)
    weights = [
        load_file(tmp_path / where / "out" / "model.safetensors") for where in ("gpu", "cpu")
    ]
    assert {n: x.dtype for n, x in weights[0].items()} == {
        n: x.dtype for n, x in weights[1].items()
    }
    cost = read_json(tmp_path / "gpu" / "out" / "cost.json")
    assert list(cost["hardware"]) == [torch.cuda.get_device_name(gpu)]
    attempts = (tmp_path / "gpu" / "state" / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["gpus"] for line in attempts] == [1]


def test_float16_trains_with_its_loss_scale(gpu, manifests, tmp_path, monkeypatch):
    """As on a V100."""
    for module in (device_module, loop):
        monkeypatch.setattr(module, "half_type", lambda device: torch.float16)
    losses = go(pretrain(optimiser=optimiser(epochs=10)), manifests, tmp_path)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", ["pretrain", "retrieval", "captioning"])
def test_an_interrupted_run_resumes(gpu, manifests, tmp_path, name):
    """Stopped after every step, with switches that differ; a GPU may add up in another order."""
    expected, stops = go(RUNS[name], manifests, tmp_path / "whole"), 0
    turns = [Switches(activation_checkpointing=True), Switches()]
    while True:
        try:
            given = {"max_seconds": 0.0, "switches": turns[stops % 2]}
            found = go(RUNS[name], manifests, tmp_path / "parts", **given)
            break
        except RetryLater:
            stops += 1
    assert stops >= len(expected) - 1
    assert len(found) == len(expected)
    assert found[:3] == pytest.approx(expected[:3], rel=0.02)
    assert found == pytest.approx(expected, rel=0.05)
    same = [a == b for a, b in zip(found, expected, strict=True)]
    print(f"{name}: {sum(same)} of {len(same)} losses have the same bits")


CLAIMING = """
import torch
from clip4vla.common.device import pick_device
device = pick_device()
torch.ones(1, device=device)
print(torch.cuda.device_count(), flush=True)
input()
"""


def test_a_second_process_is_told_that_it_shares(gpu, tmp_path):
    """On a machine with one GPU; of more it would take another one (test_devices.py)."""
    if len(_gpus()) > 1:
        pytest.skip("this machine has more than one GPU")
    variables = {
        k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    }
    given = {"env": variables | {"TMPDIR": str(tmp_path)}, "text": True}
    given |= dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", CLAIMING]
    with subprocess.Popen(command, **given) as first:
        assert first.stdout.readline().strip() == "1"
        with subprocess.Popen(command, **given) as second:
            _, told = second.communicate("\n", timeout=120)
        first.communicate("\n", timeout=120)
    assert second.returncode == 0
    assert "sharing a GPU" in told
