"""Resources that a training requests. They decide how fast it runs, never its results."""

from dataclasses import dataclass

ANY = "any"


@dataclass(frozen=True)
class Request:
    """Resources of one training. `any` leaves a choice to the cluster."""

    nodes: int = 1
    gpus_per_node: int = 0
    gpu_model: str = ANY  # such as v100, where a cluster has several
    threads: int = 4  # of every process
    mem_mb: int = 0  # of every node; 0: the cluster's default
    minutes: int = 60  # time limit of one job; the next one resumes the training
    partition: str = ANY
    account: str = ANY
    constraint: str = ANY
    qos: str = ANY
    extra: str = ""  # more options of sbatch, such as --exclude=node7 --reservation=clip
    grace_seconds: int = 180  # from Slurm's signal to the time limit, to finish a step and save

    @property
    def tasks_per_node(self) -> int:
        """Return the number of processes per node: one for each GPU, or one."""
        return max(self.gpus_per_node, 1)
