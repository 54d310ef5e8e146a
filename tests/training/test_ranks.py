"""Several ranks train one run: same losses, same weights, whoever is killed."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time

import pytest
import torch
from halting import halt_at
from safetensors.torch import load_file
from tiny_world import MODEL, build_world, finetune, optimiser, pretrain

from clip4vla.common.errors import EXIT_RETRY, RetryLater, UserError
from clip4vla.models.clip4vla import joint
from clip4vla.training.checkpoint import Checkpoints
from clip4vla.training.outputs import OUTPUTS
from clip4vla.training.ranks import Ranks, joined, ranks_of
from clip4vla.training.train import train

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["clip4vla.training.train"])
STEPS = 20


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world") / "world")


def run_of(**given):
    """Pre-training of 3 steps an epoch, 4 clips each."""
    return pretrain(optimiser=optimiser(epochs=-(-STEPS // 3), batch_size=4), **given)


def work(rank, world, port, run, manifests, folder, halt, dropout, given):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    os.environ |= dict(zip(names, map(str, (rank, world, rank, "127.0.0.1", port)), strict=True))
    torch.set_num_threads(1)
    joint.DROPOUT = joint.DROPOUT if dropout else 0.0
    if halt and rank == 0:
        halt_at(*halt, folder / "halted")
    try:
        train(run, manifests, None, {}, None, folder / "state", folder / "out", **given)
    except RetryLater:
        raise SystemExit(EXIT_RETRY) from None


def work_reading_late(rank, *given):
    """As `work`, but all ranks except the first are slow to read a checkpoint."""
    original = Checkpoints.load

    def late(*args):
        time.sleep(3 if rank else 0)
        return original(*args)

    Checkpoints.load = late
    work(rank, *given)


def work_reading_nothing(rank, *given):
    """As `work`, but only the first rank sees the checkpoints."""
    if rank:
        Checkpoints.load = lambda *args: None
    try:
        work(rank, *given)
    except UserError as error:
        raise SystemExit(2 if "that all nodes share" in str(error) else 1) from None


def start(run, manifests, folder, world, halt=None, dropout=True, target=work, **given):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = (world, port, run, manifests, folder, halt, dropout, given)
    ranks = [PROCESSES.Process(target=target, args=(rank, *given)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    return ranks


def codes(ranks):
    for rank in ranks:
        rank.join(120)
    return [rank.exitcode for rank in ranks]


def curve(folder):
    lines = (folder / "out" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def alone(manifests, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert codes(start(run_of(), manifests, folder, 1)) == [0]
    return folder


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_has_the_losses_of_one(manifests, alone, tmp_path, world):
    assert codes(start(run_of(), manifests, tmp_path, world)) == [0] * world
    one, several = curve(alone), curve(tmp_path)
    assert len(one) == len(several) >= STEPS
    for name in ("train/loss", "train/text_audio", "train/audio_audio", "train/lr"):
        expected = [row[name] for row in one][:STEPS]
        assert [row[name] for row in several][:STEPS] == pytest.approx(expected, rel=2e-4)
    first, second = (load_file(f / "out" / "model.safetensors") for f in (alone, tmp_path))
    moved = max(float((first[name] - second[name]).abs().max()) for name in first)
    assert moved < 2e-4  # float32 sums in another order, after AdamW at a rate of 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "local_to_local", "captioning"])
def test_fine_tuning_by_1_2_and_4_ranks_has_the_same_losses(manifests, tmp_path, task):
    """Without dropout, which every rank draws for itself."""
    given = {"val": None, "selection": "last", "missing_audio": "none"}
    given["optimiser"] = optimiser(lr=1e-4, epochs=-(-STEPS // 4))
    if task == "local_to_local":
        given["model"], task = MODEL.model_copy(update={"fusion": task}), "retrieval"
    losses = {}
    for world in (1, 2, 4):
        folder = tmp_path / str(world)
        ranks = start(finetune(task, **given), manifests, folder, world, dropout=False)
        assert codes(ranks) == [0] * world
        losses[world] = [row["train/loss"] for row in curve(folder)][:STEPS]
        assert len(losses[world]) == STEPS
    assert losses[2] == pytest.approx(losses[1], rel=2e-4)
    assert losses[4] == pytest.approx(losses[1], rel=2e-4)


@pytest.mark.parametrize(
    ("task", "metric", "given"),
    [
        ("classification", "accuracy", {}),
        pytest.param(
            *("tagging", "mAP", {"sampling": "balanced", "label_smoothing": 0.1}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_full_fine_tuning_by_two_ranks_is_that_of_one(manifests, tmp_path, task, metric, given):
    given = {"trainable": "all", "selection": "last", "missing_audio": "none"} | given
    run, curves = finetune(task, optimiser=optimiser(lr=1e-4, epochs=3), **given), {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        assert codes(start(run, manifests, folder, world)) == [0] * world
        curves[world] = curve(folder)
    for name in ("train/loss", f"val/{metric}"):
        one, two = ([row[name] for row in curves[w] if name in row] for w in (1, 2))
        assert len(one) >= 3 and one == pytest.approx(two, rel=2e-4)


def selecting():
    return finetune(missing_audio="none", optimiser=optimiser(epochs=2, ema=0.9))


def test_retrieval_is_validated_and_selected_by_all(manifests, tmp_path):
    results = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        assert codes(start(selecting(), manifests, folder, world)) == [0] * world
        results.append(json.loads((folder / "out" / "train.json").read_text()))
    same = ("steps", "samples", "epochs", "selected_epoch", "batch_size", "val_metric", "val_value")
    assert [results[0][key] for key in same] == [results[1][key] for key in same]


def kill_and_go_on(run, manifests, folder, seed, world=2):
    """Kill a rank, the others must not hang; then run to the end.

    Every third time the first rank, while it writes a checkpoint; else any rank at any moment.
    """
    rng = random.Random(seed)
    halt = ("save", rng.randint(1, 3)) if seed % 3 == 0 else None
    ranks = start(run, manifests, folder, world, halt, save_seconds=0.0)
    victim = ranks[0] if halt else rng.choice(ranks)
    if halt:
        while not (folder / "halted").exists():
            assert ranks[0].is_alive()
            time.sleep(0.01)
    else:
        time.sleep(rng.uniform(0.1, 4.0))
    if victim.is_alive():
        os.kill(victim.pid, signal.SIGKILL)
    for rank in ranks:  # as srun and our launcher do when one rank is lost
        rank.join(2)
        if rank.is_alive():
            rank.kill()
    codes(ranks)
    (folder / "halted").unlink(missing_ok=True)
    assert codes(start(run, manifests, folder, world)) == [0] * world


@pytest.fixture
def all_but_finished(manifests, tmp_path):
    """A run that was killed behind the checkpoint of its last epoch, before its outputs."""
    ranks = start(selecting(), manifests, tmp_path, 2, ("selected", 1))
    while not (tmp_path / "halted").exists():
        assert ranks[0].is_alive()
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
    codes(ranks)
    (tmp_path / "halted").unlink()
    return tmp_path


def test_the_first_rank_removes_no_checkpoint_that_another_still_reads(manifests, all_but_finished):
    given = selecting(), manifests, all_but_finished, 2
    assert codes(start(*given, target=work_reading_late)) == [0, 0]


def test_a_checkpoint_that_only_one_rank_can_read_is_refused_by_all(manifests, all_but_finished):
    given = selecting(), manifests, all_but_finished, 2
    assert codes(start(*given, target=work_reading_nothing)) == [2, 2]


def check_kills(run, manifests, tmp_path, kills):
    undisturbed = tmp_path / "undisturbed"
    assert codes(start(run, manifests, undisturbed, 2)) == [0, 0]
    for seed in range(kills):
        folder = tmp_path / f"kill-{seed}"
        kill_and_go_on(run, manifests, folder, seed)
        for name in OUTPUTS:
            wanted = (undisturbed / "out" / name).read_bytes()
            assert (folder / "out" / name).read_bytes() == wanted, (seed, name)


def test_two_ranks_killed_anywhere_end_with_the_same_bits(manifests, tmp_path):
    check_kills(selecting(), manifests, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_of(), selecting()], ids=["pretrain", "finetune"])
def test_two_ranks_killed_20_times_end_with_the_same_bits(manifests, tmp_path, run):
    check_kills(run, manifests, tmp_path, 20)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(manifests, alone, tmp_path):
    ranks = start(run_of(), manifests, tmp_path, 2)
    attempts = tmp_path / "state" / "metrics.jsonl"
    while not (attempts.exists() and attempts.stat().st_size):
        time.sleep(0.02)
    os.kill(ranks[1].pid, signal.SIGUSR2)
    ended = codes(ranks)
    assert ended in ([EXIT_RETRY, EXIT_RETRY], [0, 0])  # 0: it was finished before
    assert codes(start(run_of(), manifests, tmp_path, 2)) == [0, 0]
    assert len(curve(tmp_path)) == len(curve(alone))


def test_a_run_resumes_with_another_number_of_ranks(manifests, alone, tmp_path):
    ranks = start(run_of(), manifests, tmp_path, 2, max_seconds=1.0)
    assert set(codes(ranks)) <= {EXIT_RETRY, 0}
    assert codes(start(run_of(), manifests, tmp_path, 1)) == [0]
    losses = [[row["train/loss"] for row in curve(folder)] for folder in (alone, tmp_path)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-4)


def test_a_batch_that_cannot_be_dealt_is_refused(manifests, tmp_path):
    ranks = start(run_of(), manifests, tmp_path, 3)
    assert codes(ranks) == [1, 1, 1]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "41"}
SRUN = BATCH | {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    "variables, ranks, address",
    [
        ({}, Ranks(), ("", 0)),
        (TORCHRUN | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}, Ranks(3, 8, 1), ("a", 7)),
        (SRUN | {"SLURM_STEP_NODELIST": "n1"}, Ranks(5, 6, 2), ("n1", 20041)),
        (SRUN | TORCHRUN | {"MASTER_ADDR": "a"}, Ranks(3, 8, 1), ("a", 29500)),
        (BATCH, Ranks(), ("", 0)),  # a batch script of several tasks: no srun, one process
        (BATCH | {"SLURM_STEP_NUM_TASKS": "1"}, Ranks(), ("", 0)),
    ],
)
def test_ranks_come_from_torchrun_or_from_slurm(variables, ranks, address):
    assert ranks_of(variables) == (ranks, address)


def test_missing_ranks_are_named(monkeypatch):
    from datetime import timedelta

    from clip4vla.training import ranks as module

    monkeypatch.setattr(module, "START_TIMEOUT", timedelta(seconds=1))
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConnectionError, match=r"rank 1 of 2: .* 127.0.0.1:1"),
        module.joined(torch.device("cpu")),
    ):
        pass


def test_ranks_that_cannot_connect_may_be_retried(monkeypatch):
    """On Slurm a lost node looks like this: the launcher may try again, as it may not on refusals."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**given, "MASTER_PORT": taken.getsockname()[1]}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        refused = pytest.raises(ConnectionError, match="rank 0 of 2: the others do not answer")
        with refused, joined(torch.device("cpu")):
            pass
