"""The processes of one training: which one this is, and how they agree.

Ranks come from torchrun's variables (our own launchers set them too) or, where `srun` started the
processes, from Slurm's. Without either there is one.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

MEETING = timedelta(minutes=10)  # until all ranks have come
STEP = timedelta(minutes=30)  # until a tensor of the others has come
PATIENCE = timedelta(hours=24)  # rank 0 validates, or reads data, while the others wait for it


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of `world`, and its number on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    group: Any = field(default=None, compare=False)  # a patient one, on CPU

    @property
    def leads(self) -> bool:
        """Whether this rank writes files, validates and reports."""
        return self.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """Every flag that some rank has: so all act at the same step."""
        if self.world == 1:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(flag) for flag in told.tolist()]

    def from_leader(self, value: Any = None) -> Any:
        """What rank 0 has; the others wait for it."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def all(self, items: list) -> list:
        """The lists of all ranks, one behind another."""
        if self.world == 1:
            return items
        parts: list = [None] * self.world
        dist.all_gather_object(parts, items, group=self.group)
        return [item for part in parts for item in part]


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes of this training; part at the end.

    Tensors go over nccl on GPUs, else over gloo. ConnectionError when the others do not come.
    """
    ranks, address = ranks_of(os.environ)
    if ranks.world == 1:
        yield ranks
        return
    try:
        host, port = address
        # torchrun's own process keeps the store; without it the first rank does.
        serves = ranks.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = dist.TCPStore(host, port, ranks.world, is_master=serves, timeout=MEETING)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=STEP
        )
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (dist.DistError, OSError) as error:
        why = (str(error).splitlines() or [""])[0]
        # No mistake of the user's: on Slurm a lost node looks like this, and a new job may help.
        raise ConnectionError(
            f"rank {ranks.rank} of {ranks.world}: the others do not answer at {host}:{port} ({why})"
        ) from None
    try:
        yield Ranks(ranks.rank, ranks.world, ranks.local_rank, group)
    finally:
        dist.destroy_process_group()


def ranks_of(variables: Mapping[str, str]) -> tuple[Ranks, tuple[str, int]]:
    """Which process this is, and where the ranks meet (host and port)."""
    if "RANK" in variables and "WORLD_SIZE" in variables:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in variables:
        # srun's; SLURM_NTASKS is there in a batch script too, whose one process has SLURM_PROCID 0
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return Ranks(), ("", 0)
    ranks = Ranks(*(int(variables.get(name, 0)) for name in names))
    if "MASTER_ADDR" in variables:
        return ranks, (variables["MASTER_ADDR"], int(variables.get("MASTER_PORT", 29500)))
    nodes = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_JOB_NODELIST", "localhost"))
    return ranks, (_first(nodes), 20000 + int(variables.get("SLURM_JOB_ID", 0)) % 40000)


def _first(nodes: str) -> str:
    """The first host of Slurm's short form, such as v100-[03-07,12]."""
    asked = ["scontrol", "show", "hostnames", nodes]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return nodes
    return told.stdout.split()[0]
