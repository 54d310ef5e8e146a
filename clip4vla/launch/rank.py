"""Run `clip4vla train` as one rank in each task of a Slurm job."""

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

REFUSED = "refused"  # file in a job's folder with the rank that raised a user error
REQUEUE_SECONDS = 600  # far more than the requeue by the first rank takes, which ends the job


class Rank(Checkpointable):
    """A clip4vla command line, run with the rank that Slurm gave to this task.

    A training that had to stop (time limit, pre-emption) has saved itself and resumes when Slurm
    starts the job again, whether or not its driver on the login node still runs.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str]):
        self.arguments, self.variables = arguments, variables

    def __call__(self) -> None:
        """Run the command. Raises SystemExit unless the training has finished."""
        os.environ.update(self.variables)
        # Slurm shows every task the GPUs of its node; each takes the one of its local rank.
        ranks = TorchDistributedEnvironment()
        ranks.export(set_cuda_visible_devices=False, overwrite=True)
        try:
            sys.argv[1:] = self.arguments
            runpy.run_module("clip4vla", run_name="__main__")
        except SystemExit as end:
            if end.code == EXIT_RETRY:
                self._requeue(ranks.rank)
            if end.code == EXIT_USER_ERROR:
                self._note_refusal(ranks.rank)
            if end.code:
                raise

    def _note_refusal(self, rank: int) -> None:
        """Write REFUSED: Slurm ends the other ranks, and the job's exit code may be theirs."""
        note = JobEnvironment().paths.folder / REFUSED
        with contextlib.suppress(FileExistsError), note.open("x") as stream:
            stream.write(str(rank))

    def _requeue(self, rank: int) -> None:
        if rank == 0 and not requeue(os.environ["SLURM_JOB_ID"]):
            log.info("Slurm does not requeue this job; the driver submits it again")
            return
        time.sleep(REQUEUE_SECONDS)
