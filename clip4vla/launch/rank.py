"""The one function that every task of a Slurm job runs: `clip4vla train` as one rank."""

import contextlib
import os
import runpy
import sys
import time

from submitit import JobEnvironment
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from clip4vla.common.errors import EXIT_RETRY, EXIT_USER_ERROR
from clip4vla.common.log import log
from clip4vla.launch.queue import requeue

REFUSED = "refused"  # file of a job's folder: the rank that met a mistake of the user's
REQUEUE_SECONDS = 600  # far more than the first rank takes to have the job requeued, which ends it


class Rank(Checkpointable):
    """Runs a command line of ours with the rank that Slurm gave to this task.

    A training that was told to stop (time limit, pre-emption) has saved itself and goes on when
    Slurm starts the job again: whether somebody still waits for it on the login node or not.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str]):
        self.arguments, self.variables = arguments, variables

    def __call__(self) -> None:
        """Leaves by SystemExit unless the training is finished."""
        os.environ.update(self.variables)
        # Slurm shows every task the GPUs of its node; each takes the one of its local rank.
        ranks = TorchDistributedEnvironment()
        ranks.export(set_cuda_visible_devices=False, overwrite=True)
        try:
            sys.argv[1:] = self.arguments
            runpy.run_module("clip4vla", run_name="__main__")
        except SystemExit as end:
            if end.code == EXIT_RETRY:
                self._come_back(ranks.rank)
            if end.code == EXIT_USER_ERROR:
                self._refuse(ranks.rank)
            if end.code:
                raise

    def _refuse(self, rank: int) -> None:
        """Leave a note: Slurm ends the other ranks, and the job's exit code may be theirs."""
        note = JobEnvironment().paths.folder / REFUSED
        with contextlib.suppress(FileExistsError), note.open("x") as stream:
            stream.write(str(rank))

    def _come_back(self, rank: int) -> None:
        if rank == 0 and not requeue(os.environ["SLURM_JOB_ID"]):
            log.info("Slurm does not requeue this job: it is submitted anew")
            return
        time.sleep(REQUEUE_SECONDS)
