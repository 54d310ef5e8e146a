"""Launch a training: in this process, in several processes here, or as a Slurm job."""
