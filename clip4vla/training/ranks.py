"""The processes of one training: the rank of this one, and agreement among all.

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

# Time limits for the start of all ranks, for a tensor of the other ranks, and for objects on the
# CPU: the others wait for those while rank 0 validates or reads data.
START_TIMEOUT = timedelta(minutes=10)
TENSOR_TIMEOUT = timedelta(minutes=30)
OBJECT_TIMEOUT = timedelta(hours=24)


@dataclass(frozen=True)
class Ranks:
    """This process: `rank` of `world`, and its number on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    group: Any = field(default=None, compare=False)  # of the CPU, with a long time limit

    @property
    def leads(self) -> bool:
        """Whether this rank writes files, validates and reports."""
        return self.rank == 0

    def any_rank(self, flag: bool) -> bool:
        """Return whether some rank sets the flag, so that all act at the same step."""
        return self.any_ranks(flag)[0]

    def any_ranks(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether some rank sets it, in one collective call."""
        if self.world == 1:
            return list(flags)
        maxima = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(flag) for flag in maxima.tolist()]

    def from_leader(self, value: Any = None) -> Any:
        """Return the value of rank 0; the others wait for it."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.world > 1:
            dist.barrier(group=self.group)

    def gathered(self, items: list) -> list:
        """Return the lists of all ranks, joined in the order of ranks."""
        if self.world == 1:
            return items
        parts: list = [None] * self.world
        dist.all_gather_object(parts, items, group=self.group)
        return [item for part in parts for item in part]


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Connect to the other processes of this training, and disconnect at the end.

    Tensors go over nccl on GPUs, otherwise over gloo. Raises ConnectionError when the other ranks
    do not start.
    """
    ranks, address = ranks_of(os.environ)
    if ranks.world == 1:
        yield ranks
        return
    try:
        host, port = address
        # torchrun's own process serves the store; without it the first rank does.
        serves = ranks.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = dist.TCPStore(host, port, ranks.world, is_master=serves, timeout=START_TIMEOUT)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=TENSOR_TIMEOUT
        )
        group = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    except (dist.DistError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        # Not a UserError: a lost node of Slurm ends here too, and a retry may succeed.
        raise ConnectionError(
            f"rank {ranks.rank} of {ranks.world}: the others do not answer at {host}:{port} "
            f"({reason}). Fix: start all ranks, with the same MASTER_ADDR and MASTER_PORT"
        ) from None
    try:
        yield Ranks(ranks.rank, ranks.world, ranks.local_rank, group)
    finally:
        dist.destroy_process_group()


def ranks_of(variables: Mapping[str, str]) -> tuple[Ranks, tuple[str, int]]:
    """Return which process this is, and the address (host, port) at which the ranks connect."""
    if "RANK" in variables and "WORLD_SIZE" in variables:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in variables:
        # of srun; SLURM_NTASKS is set in a batch script too, whose one process has SLURM_PROCID 0
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return Ranks(), ("", 0)
    ranks = Ranks(*(int(variables.get(name, 0)) for name in names))
    if "MASTER_ADDR" in variables:
        return ranks, (variables["MASTER_ADDR"], int(variables.get("MASTER_PORT", 29500)))
    nodes = variables.get("SLURM_STEP_NODELIST", variables.get("SLURM_JOB_NODELIST", "localhost"))
    return ranks, (_first_host(nodes), 20000 + int(variables.get("SLURM_JOB_ID", 0)) % 40000)


def _first_host(nodes: str) -> str:
    """Return the first host of a list in Slurm's short form, such as v100-[03-07,12]."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        hosts = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return nodes
    return hosts.stdout.split()[0]
