"""Work done by several gloo processes of one machine."""

import multiprocessing
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from gradient_cases import in_double

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["clip4vla.models.clip4vla.tasks", "clip4vla.checkpoints.initial_weights"]
)


def rank_main(rank, world, folder, work):
    """One rank: join the group, work, leave the result of the rank in a file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    in_double()
    given = {"rank": rank, "world_size": world, "timeout": timedelta(minutes=5)}
    dist.init_process_group("gloo", f"file://{folder}/store", **given)
    try:
        torch.save(work(rank, world), folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_ranks(world, folder, work):
    """What `work(rank, world)` gives on every rank; `float()` keeps float64 there."""
    ranks = [
        PROCESSES.Process(target=rank_main, args=(rank, world, folder, work))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * world
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]
