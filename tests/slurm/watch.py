"""What a test sees of a pre-training on the cluster: its jobs, ranks, checkpoints and attempts."""

import json
import re
import time
from pathlib import Path

import psutil


def until(holds, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)
    return found


def jobs_of(cluster):
    """(name, job id, sbatch line) of every job that Slurm has seen."""
    form = "--format=JobName%60,JobID,SubmitLine%2000"
    lines = cluster.slurm("sacct", "-X", "--noheader", "--parsable2", form).splitlines()
    return [line.split("|", 2) for line in lines]


def pretrainings(cluster):
    return [job for job in jobs_of(cluster) if job[0].startswith("clip4vla-pretrain")]


def ranks_of(state):
    """The training's processes: their own namespaces hide nothing from this side."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        is_rank = "submitit.core._submit" in line and Path(line[0]).name.startswith("python")
        if is_rank and any(state.name in part for part in line):
            found.append(process)
    return found


def was_told(process, number):
    """Whether a signal waits for a process, or was its end already."""
    try:
        status = Path("/proc", str(process.pid), "status").read_text()
    except OSError:
        return True
    masks = re.findall(r"^S[hi][dg]Pnd:\s*([0-9a-f]+)", status, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def reached(state):
    return max((int(p.stem[5:]) for p in (state / "state").glob("step-*.pt")), default=0)


def attempts_of(state):
    path = state / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key_of(project):
    """The key of the project's pre-training."""
    plan = project.run("clip4vla", "plan").stdout
    return re.search(r"\b[0-9a-f]{12}\b", plan).group()


def curve_of(folder):
    """The steps of a finished run's curve."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]
