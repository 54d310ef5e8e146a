"""Where a training runs: in this process, in several on this machine, or as a Slurm job."""
