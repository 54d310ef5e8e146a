"""Resources that a training requests. They decide how fast it runs, never its results."""

from dataclasses import dataclass

from clip4vla.common.hardware import ReadingHardware
from clip4vla.common.options import option

ANY = "any"


@dataclass(frozen=True)
class Request:
    """Resources of one training. `any` leaves a choice to the cluster."""

    nodes: int = option(1, "slurm: machines.", min=1)
    gpus_per_node: int = option(0, "One process each; 0: one process on the CPU.", min=0)
    gpu_model: str = option(ANY, "slurm: such as v100.")
    threads: int = option(2, "CPU cores of every process.", min=1)
    readers: int | None = option(None, "Of these cores, those that read; see `train`.", min=0)
    mem_mb: int = option(0, "slurm: memory of every node in MB; 0: the cluster's default.", min=0)
    minutes: int = option(
        60, "slurm: time limit of one job in minutes; the next one resumes.", min=1
    )
    partition: str = option(ANY, "slurm: partition.")
    account: str = option(ANY, "slurm: account.")
    constraint: str = option(ANY, "slurm: features of the nodes.")
    qos: str = option(ANY, "slurm: quality of service.")
    extra: str = option("", "slurm: more options, such as '--exclude=node7 --reservation=clip'.")
    grace_seconds: int = 180  # from Slurm's signal to the time limit, to finish a step and save

    @property
    def hardware(self) -> ReadingHardware:
        """Return the cores of one process."""
        return ReadingHardware(threads=self.threads, readers=self.readers)

    @property
    def tasks_per_node(self) -> int:
        """Return the number of processes per node: one for each GPU, or one."""
        return max(self.gpus_per_node, 1)
