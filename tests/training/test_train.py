"""Whole runs of a tiny model: outputs, kills, stops, refusals."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from halting import halt_at
from safetensors.torch import load_file
from tiny_world import MODEL, SILENT, build_world, finetune, optimiser, pretrain, source
from typer.testing import CliRunner

from clip4vla.checkpoints.checkpoint import read_checkpoint
from clip4vla.cli.main import app
from clip4vla.common.errors import EXIT_RETRY, RetryLater, UserError
from clip4vla.common.files import read_json, sole_owner
from clip4vla.common.hardware import ReadingHardware
from clip4vla.config.sections import Freeze
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.training import loop
from clip4vla.training import train as train_module
from clip4vla.training.optimiser import parameter_groups
from clip4vla.training.outputs import OUTPUTS
from clip4vla.training.ranks import Ranks
from clip4vla.training.stop import Stop
from clip4vla.training.train import train

LABELLED = {  # by name: the task and what it trains
    "classification": {"task": "classification"},
    "fully": {"task": "classification", "trainable": "all"},
}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["clip4vla.training.train"])


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


@pytest.fixture(scope="module")
def pretrained(manifests, tmp_path_factory):
    """The outputs of a pre-training run."""
    folder = tmp_path_factory.mktemp("pretrain")
    go(pretrain(), manifests, folder)
    return folder / "out"


def go(run, manifests, folder, start=None, substitution=None, **given):
    train(run, manifests, start, {}, substitution, folder / "state", folder / "out", **given)


def outputs(folder):
    return {name: (folder / "out" / name).read_bytes() for name in OUTPUTS}


def test_pretraining_trains_the_audio_tower_alone(manifests, pretrained):
    found = load_file(pretrained / "model.safetensors")
    job = train_module.set_up(pretrain(), surroundings(manifests))
    for name, tensor in job.task.model.named_parameters():
        assert tensor.requires_grad == name.startswith("audio.")
        assert torch.equal(tensor, found[name]) != name.startswith("audio.")
    summary = read_json(pretrained / "train.json")
    assert summary["steps"] == 2 * (12 // 4)  # 6 samples of the smaller source, 6 of the other
    assert (summary["train_clips"], summary["val_clips"], summary["silent_left_out"]) == (10, 0, 3)
    assert [facts["clips"] for facts in summary["data"]["train"]] == [7, 3]
    assert [facts["silent_left_out"] for facts in summary["data"]["train"]] == [2, 1]
    assert summary["trainable_parameters"] == sum(
        tensor.numel() for name, tensor in found.items() if name.startswith("audio.")
    )
    terms = {"train/loss", "train/text_audio", "train/vision_audio", "train/audio_audio"}
    assert terms < set(read_json_lines(pretrained / "metrics.jsonl")[0])


def surroundings(manifests):
    caches = train_module.Caches(manifests)
    return train_module.External(caches, None, {}, None, torch.device("cpu"), 1)


def read_json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("objective", [Objective(intra=False), Objective(inter=False)])
def test_each_contrast_can_stand_alone(manifests, tmp_path, objective):
    run = pretrain(objective=objective, trainable="all", optimiser=optimiser(epochs=1))
    go(run, manifests, tmp_path)
    row = read_json_lines(tmp_path / "out" / "metrics.jsonl")[-1]
    inter = {"train/text_audio", "train/vision_audio", "train/text_vision"}
    terms = {name for name in row if name.startswith("train/")} - {"train/loss"}
    assert terms - {"train/lr", "train/grad_norm"} == (
        inter if objective.inter else {"train/audio_audio"}
    )


def test_the_second_stage_is_initialised_by_the_first(manifests, pretrained, tmp_path):
    start = pretrained / "model.safetensors"
    given = {"trainable": "all", "optimiser": optimiser(epochs=1), "start": "0123456789ab"}
    go(pretrain(**given), manifests, tmp_path, start=start)
    before, after = load_file(start), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for part in ("text.", "vision.", "audio."):
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part))
    drift = max((before[name] - after[name]).abs().max() for name in before)
    assert drift < 0.02  # three steps away from it, not from somewhere else
    assert read_json(tmp_path / "out" / "train.json")["parent"]["run_key"] == "0123456789ab"


def test_a_learned_temperature_is_in_the_curve_and_in_the_weights(manifests, tmp_path):
    run = pretrain(objective=Objective(temperature="learnable"), optimiser=optimiser(epochs=1))
    go(run, manifests, tmp_path)
    rows = read_json_lines(tmp_path / "out" / "metrics.jsonl")
    assert [row["train/scale"] for row in rows][0] == pytest.approx(100.0)
    assert all(row["train/scale"] < 100.01 for row in rows)
    found = load_file(tmp_path / "out" / "model.safetensors")["logit_scale"]
    assert found != CLIP4VLA(resolve("tiny")).logit_scale
    summary = read_json(tmp_path / "out" / "train.json")
    audio = sum(p.numel() for n, p in CLIP4VLA(resolve("tiny")).named_parameters() if n[:2] == "au")
    assert summary["trainable_parameters"] == audio + 1


@pytest.mark.parametrize("stage", ["pretrain", "retrieval", "captioning", *LABELLED])
def test_a_microbatch_changes_neither_the_identity_nor_the_first_loss(manifests, tmp_path, stage):
    first = {}
    for microbatch in (None, 3):
        given = {"optimiser": optimiser(epochs=1, microbatch=microbatch)}
        if stage == "pretrain":
            run = pretrain(**given)
        else:
            given |= LABELLED.get(stage, {"task": stage})
            run = finetune(val=None, selection="last", missing_audio="none", **given)
        go(run, manifests, tmp_path / str(microbatch))
        rows = read_json_lines(tmp_path / str(microbatch) / "out" / "metrics.jsonl")
        summary = read_json(tmp_path / str(microbatch) / "out" / "train.json")
        first[microbatch] = summary["run_key"], summary["steps"], rows[0]
    (key, steps, row), (other_key, other_steps, other_row) = first.values()
    assert (key, steps) == (other_key, other_steps)
    assert row.keys() == other_row.keys()
    close = 0.1 if stage == "captioning" else 1e-4  # dropout is drawn for other shapes
    assert row["train/loss"] == pytest.approx(other_row["train/loss"], rel=close)


def test_a_run_freezes_the_configured_parameters(manifests, pretrained, tmp_path):
    start = pretrained / "model.safetensors"
    freeze = Freeze(layer_num=1, prefixes=["audio.conv1"])
    given = {"val": None, "selection": "last", "optimiser": optimiser(epochs=1)}
    go(finetune(start="a" * 12, freeze=freeze, **given), manifests, tmp_path, start)
    before, after = load_file(start), load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"audio.proj", "vision.proj", "text.text_projection"} < changed
    still = {"audio.conv1.weight", "vision.conv1.weight", "text.token_embedding.weight"}
    assert not changed & still
    assert not any(".resblocks.0." in name for name in changed if not name.startswith("audio."))
    with pytest.raises(UserError, match="no parameter begins with 'audio.conv9'"):
        wrong = finetune(start="a" * 12, freeze=Freeze(prefixes=["audio.conv9"]), **given)
        go(wrong, manifests, tmp_path / "wrong", start)


def test_equal_runs_give_equal_bytes_whatever_reads_the_clips(manifests, pretrained, tmp_path):
    go(pretrain(), manifests, tmp_path, hardware=ReadingHardware(threads=3, readers=2))
    assert outputs(tmp_path) == {name: (pretrained / name).read_bytes() for name in OUTPUTS}


def test_a_finished_run_only_publishes_again(manifests, tmp_path, monkeypatch):
    go(pretrain(), manifests, tmp_path)
    first = outputs(tmp_path)
    assert list((tmp_path / "state" / "state").iterdir()) == []  # no checkpoints left
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(train_module, "set_up", lambda *_: pytest.fail("trained again"))
    go(pretrain(), manifests, tmp_path)
    assert outputs(tmp_path) == first
    with pytest.raises(UserError, match="made with another config"):
        go(pretrain(seed=1), manifests, tmp_path)


def test_retrieval_selects_on_val_and_learns(manifests, pretrained, tmp_path):
    start = pretrained / "model.safetensors"
    run = finetune(start="a" * 12, missing_audio="none", optimiser=optimiser(epochs=3))
    go(run, manifests, tmp_path, start)
    summary = read_json(tmp_path / "out" / "train.json")
    rows = read_json_lines(tmp_path / "out" / "metrics.jsonl")
    scores = [row["val/t2v_R1"] for row in rows if "val/t2v_R1" in row]
    assert len(scores) == 3
    assert summary["val_value"] == max(scores)
    assert summary["selected_epoch"] == 1 + scores.index(max(scores))
    assert summary["parent"]["sha256"] == train_module.initial_weights_hash(start)
    assert read_metadata(tmp_path / "out" / "model.safetensors")["selection"] == "best_val"


def test_a_tower_that_is_not_used_does_not_change(manifests, pretrained, tmp_path):
    start = pretrained / "model.safetensors"
    given = {"selection": "last", "val": None, "optimiser": optimiser(epochs=1)}
    go(finetune(start="a" * 12, modalities=["audio"], **given), manifests, tmp_path, start)
    before, after = load_file(start), load_file(tmp_path / "out" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text", "audio"}


def test_silent_clips_follow_the_policy(manifests, tmp_path):
    lines = [f"{clip}\tt0\t0.5\tt1" for clip in sorted(SILENT)]
    table = tmp_path / "substitution.tsv"
    table.write_text("\n".join(["clip_id\tdonor\tcosine\trandom_donor", *lines]) + "\n")
    facts, given = {}, {"val": None, "selection": "last"}
    for policy in ("filter", "substitute", "none"):
        around = surroundings(manifests)
        around = train_module.External(**{**vars(around), "substitution": table})
        job = train_module.set_up(finetune(missing_audio=policy, **given), around)
        facts[policy] = job.facts["train"][0]
        donors = job.batches.sources[0].donor_of
        assert donors == (dict.fromkeys(sorted(SILENT), "t0") if policy == "substitute" else {})
    keys = ("clips", "samples", "silent_left_out", "silent_with_donor", "silent_without_sound")
    assert [facts["filter"][key] for key in keys] == [7, 14, 2, 0, 0]
    assert [facts["substitute"][key] for key in keys] == [9, 18, 0, 2, 0]
    assert [facts["none"][key] for key in keys] == [9, 18, 0, 0, 2]
    with pytest.raises(UserError, match="needs the substitution.tsv"):
        go(finetune(missing_audio="random", **given), manifests, tmp_path)


def test_a_probe_keeps_the_towers_and_names_its_classes(manifests, pretrained, tmp_path):
    start = pretrained / "model.safetensors"
    run = finetune("classification", start="a" * 12, optimiser=optimiser(epochs=20))
    go(run, manifests, tmp_path, start)
    before, after = load_file(start), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(after) - set(before) == {f"probe.{n}" for n in (
        "linear.bias", "linear.weight", "norm.bias", "norm.weight"
    )}  # fmt: skip
    probe = read_checkpoint(tmp_path / "out" / "model.safetensors")  # with nothing beside it
    assert probe.metadata["classes"] == probe.settings.classes == ["blue", "green", "red"]
    assert probe.metadata["manifests"] and probe.settings.cache == run.cache
    assert read_json(tmp_path / "out" / "train.json")["trainable_parameters"] == 2 * 64 + 65 * 3


@pytest.mark.parametrize("modalities", [["vision"], ["audio"], ["vision", "audio"]])
def test_full_fine_tuning_trains_the_towers_that_it_reads(
    manifests, pretrained, tmp_path, modalities
):
    start = pretrained / "model.safetensors"
    run = finetune(
        **LABELLED["fully"], start="a" * 12, modalities=modalities, optimiser=optimiser(epochs=6)
    )
    go(run, manifests, tmp_path, start)
    before, after = load_file(start), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(modalities)
    probe = read_checkpoint(tmp_path / "out" / "model.safetensors")
    assert probe.metadata["trainable"] == "all" and probe.metadata["val_metric"] == "accuracy"
    assert probe.metadata["val_value"] > 50  # of three colours, each with its tone
    rows = read_json_lines(tmp_path / "out" / "metrics.jsonl")
    assert [row["val/accuracy"] for row in rows if "val/accuracy" in row][-1:]


def test_a_freeze_of_full_fine_tuning_is_followed(manifests, tmp_path):
    run = finetune(
        **LABELLED["fully"], freeze=Freeze(prefixes=["vision."]), optimiser=optimiser(epochs=1)
    )
    job = train_module.set_up(run, surroundings(manifests))
    learning = {n.split(".")[0] for n, p in job.task.model.named_parameters() if p.requires_grad}
    assert learning == {"audio", "probe"}


def test_the_probe_of_full_fine_tuning_has_the_rate_of_heads(manifests):
    job = train_module.set_up(finetune(**LABELLED["fully"]), surroundings(manifests))
    groups = parameter_groups(job.task.model, optimiser(), job.task.heads)
    rates = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    for name, parameter in job.task.model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-2 if name.startswith("probe.") else 1e-3)


def test_full_fine_tuning_stopped_after_every_step_ends_with_the_same_bits(manifests, tmp_path):
    """With the schedule, the mean over epochs and the microbatches of a recipe for events."""
    tuning = optimiser(schedule="step", step_from=1, average_epochs=(2, 3), epochs=3, microbatch=3)
    run = finetune(**LABELLED["fully"], selection="last", missing_audio="none", optimiser=tuning)
    go(run, manifests, tmp_path / "whole")
    stops = 0
    while True:
        try:
            go(run, manifests, tmp_path / "parts", max_seconds=0.0)
            break
        except RetryLater:
            stops += 1
    assert stops >= 6
    assert outputs(tmp_path / "parts") == outputs(tmp_path / "whole")
    metadata = read_metadata(tmp_path / "parts" / "out" / "model.safetensors")
    assert metadata["average_epochs"] == [2, 3]


def selecting(epochs=2):
    """A run with dropout, so that bits depend on the random state, that keeps its best epoch."""
    model = MODEL.model_copy(update={"fusion": "global_to_local"})
    return finetune(model=model, missing_audio="none", optimiser=optimiser(epochs=epochs))


def child(run, manifests, folder, halt):
    """One attempt in a process of its own."""
    torch.set_num_threads(1)
    if halt:
        halt_at(*halt, folder / "halted")
    try:
        go(run, manifests, folder, save_seconds=0.0)
    except RetryLater:
        sys.exit(EXIT_RETRY)


def attempt(manifests, folder, halt=None, number=None, run=None):
    """Run one attempt, send it a signal where it halts, and give its exit code."""
    marker = folder / "halted"
    given = run or selecting(), manifests, folder, halt
    process = PROCESSES.Process(target=child, args=given)
    process.start()
    while halt and not marker.exists():
        assert process.is_alive(), "it ended before it came to the place"
        time.sleep(0.01)
    if halt:
        os.kill(process.pid, number)
        marker.unlink()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(manifests, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert attempt(manifests, folder) == 0
    return folder


def check_kills(run, manifests, folder, expected, kills):
    """Kill attempts at drawn places, every third while it writes a checkpoint; then run it out."""
    rng = random.Random(7)
    for kill in range(kills):
        place = "save" if kill % 3 == 1 else rng.choice(["update", "curve"])
        halt = place, rng.randint(1, 2)
        assert attempt(manifests, folder, halt, signal.SIGKILL, run) == -signal.SIGKILL
        if place == "save":
            assert list(folder.rglob(".*.pt.*.tmp"))  # killed while it wrote
    assert not (folder / "out").exists()
    assert attempt(manifests, folder, run=run) == 0
    assert outputs(folder) == outputs(expected)
    assert not list(folder.rglob(".*.tmp"))
    cost = read_json(folder / "out" / "cost.json")
    assert (cost["attempts"], cost["killed"]) == (kills + 1, kills)


def test_killed_twice_it_ends_with_the_same_bits(manifests, undisturbed, tmp_path):
    check_kills(selecting(), manifests, tmp_path, undisturbed, 2)


@pytest.mark.slow
def test_killed_20_times_it_ends_with_the_same_bits(manifests, tmp_path):
    run = selecting(epochs=8)
    assert attempt(manifests, tmp_path / "undisturbed", run=run) == 0
    check_kills(run, manifests, tmp_path / "killed", tmp_path / "undisturbed", 20)


def test_a_training_that_waits_for_its_folder_can_be_stopped(manifests, tmp_path):
    held = sole_owner(tmp_path / "state")
    with held, pytest.raises(RetryLater, match="state: locked by another process.*time limit"):
        go(selecting(), manifests, tmp_path, max_seconds=0.0)


def test_a_stop_of_one_rank_before_the_first_step_stops_all(monkeypatch):
    monkeypatch.setattr(train_module, "set_up", lambda *given: "ready")

    class Others(Ranks):
        def any_ranks(self, *flags):
            assert flags == (False,)
            return [True]

    around = SimpleNamespace(ranks=Others(0, 2))
    with pytest.raises(RetryLater, match="before the first step .another rank was asked to stop"):
        train_module._set_up(None, around, Stop())


def test_sigterm_saves_and_exits_with_the_code_for_retry(manifests, undisturbed, tmp_path):
    assert attempt(manifests, tmp_path, ("update", 4), signal.SIGTERM) == EXIT_RETRY
    last = read_json_lines(tmp_path / "state" / "attempts.jsonl")[-1]
    assert (last["end"], last["step"]) == ("SIGTERM", 4)
    saved = sorted((tmp_path / "state" / "state").glob("step-*.pt"))[-1]
    assert saved.name == "step-000004.pt"
    with pytest.raises(UserError, match="made with another config"):
        changed = selecting().model_copy(update={"seed": 5})
        go(changed, manifests, tmp_path)
    assert attempt(manifests, tmp_path) == 0
    assert outputs(tmp_path) == outputs(undisturbed)


def test_a_fusion_resumes_with_the_same_bits(manifests, tmp_path, monkeypatch):
    """Its joint encoder has dropout, and a similarity or pooler that its loss may not reach.

    In chunks, and with a temperature that learns: its state is in the checkpoint too.
    """
    fused = MODEL.model_copy(update={"fusion": "global_to_local", "joint": "bert"})
    given = {"objective": Objective(temperature="learnable"), "optimiser": optimiser(microbatch=3)}
    run = finetune(model=fused, val=None, selection="last", missing_audio="none", **given)
    go(run, manifests, tmp_path / "undisturbed")
    original, calls = loop.Updates.__call__, []

    def failing(*given):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("power cut")
        return original(*given)

    monkeypatch.setattr(loop.Updates, "__call__", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        go(run, manifests, tmp_path, save_seconds=0.0)
    go(run, manifests, tmp_path, save_seconds=0.0)
    assert len(calls) == 1 + 2 * (18 // 4)  # one step was done twice
    assert outputs(tmp_path) == outputs(tmp_path / "undisturbed")


def test_a_signal_before_the_first_step_is_no_error(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "set_up", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RetryLater, match="before the first step"):
        go(pretrain(), manifests, tmp_path)


def test_data_that_cannot_be_trained_on_are_refused_in_one_line(manifests, tmp_path):
    missing = source("train").model_copy(update={"split": "extra"})
    runs = {
        "split 'extra' has no usable clip": finetune(train=missing),
        "best_val needs a val split": finetune(val=None),
    }
    for message, run in runs.items():
        with pytest.raises(UserError, match=message) as caught:
            go(run, manifests, tmp_path / message[:5])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-5", "0"])
def test_a_time_limit_is_a_number_above_0(seconds):
    done = CliRunner().invoke(app, ["train", "0123456789ab", f"--max-seconds={seconds}"])
    assert done.exit_code == 2 and "--max-seconds" in done.output
    assert "finite number above 0" in " ".join(done.output.split())
