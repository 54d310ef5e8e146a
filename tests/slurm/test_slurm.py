"""The whole on a real two-node Slurm: pre-emption, time limit, a killed Snakemake, the sbatch lines."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from small import REPO, Small

pytestmark = pytest.mark.slurm
EPOCHS = 100  # of two steps


@pytest.fixture
def impatient(cluster):
    """Slurm holds a requeued job for two minutes; here it starts at once."""
    done = threading.Event()

    def hurry():
        while not done.wait(1.0):
            cluster("hurry")

    thread = threading.Thread(target=hurry)
    thread.start()
    yield
    done.set()
    thread.join()


def until(holds, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)
    return found


def setup(project, monkeypatch, tmp_path, **given):
    """The user's profile, for small machines without GPUs, and impatient as a test must be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    values = {"account": "v100", "partition": "v100", "nodes": 2, "gpus-per-node": 0}
    values |= {"threads": 1, "minutes": 10, "mem-mb": 2000} | given
    options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "clip4vla.cli", "setup", "slurm", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=project.environment())
    assert done.returncode == 0, done.stderr
    path = tmp_path / "home" / "snakemake" / "slurm" / "config.yaml"
    text = path.read_text().replace("status-checks: 30", "status-checks: 5")
    text = text.replace("latency-wait: 60 ", "latency-wait: 5 ")
    return path, text.replace("mem_mb: 8000", "mem_mb: 1500")


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


def meet_the_time_limit(cluster, state, job):
    """Let Slurm find the job near its end. Slurm looks every 30 s; the training is held till then."""
    ranks = ranks_of(state)
    assert len(ranks) == 2
    for rank in ranks:
        rank.suspend()
    minutes = int((time.time() - ranks[0].create_time()) // 60) + 2
    cluster.slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    until(lambda: all(was_told(rank, signal.SIGUSR2) for rank in ranks), "Slurm's signal", 90)
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.resume()
    until(lambda: attempts_of(state), "the end of the attempt")
    cluster.slurm("scontrol", "update", f"JobId={job}", "TimeLimit=20")


def test_pretraining_survives_a_time_limit_preemption_and_a_killed_snakemake(
    cluster, impatient, tmp_path, monkeypatch
):
    project = Small(tmp_path / "project", EPOCHS)
    path, text = setup(project, monkeypatch, tmp_path)
    # Pre-training goes to the partition that others may push aside.
    own = text.index("  pretrain:\n    launcher")
    path.write_text(text[:own] + text[own:].replace("*partition", "scavenge", 1))

    snakemake = project.start("--profile", "slurm", "all")
    state = until(lambda: next((project.folder / "runs").glob("*"), None), "the run", 300)
    until(lambda: reached(state), "a checkpoint")
    before = [job[1] for job in pretrainings(cluster)]
    meet_the_time_limit(cluster, state, before[0])
    until(lambda: reached(state) > attempts_of(state)[0]["step"], "progress in the second attempt")
    cluster.slurm(
        "sbatch",
        "--partition=v100",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 2",
    )
    os.killpg(snakemake.pid, signal.SIGKILL)  # with it the rule that waits for the job
    snakemake.wait()
    unlock = subprocess.run(
        project.command("--unlock"), env=project.environment(), capture_output=True
    )
    assert unlock.returncode == 0
    again = project.start("--profile", "slurm", "all")
    assert again.wait(timeout=500) == 0, project.log()[-3000:]

    assert [job[1] for job in pretrainings(cluster)] == before and len(before) == 1, (
        "submitted once"
    )
    log = next((project.folder / "logs" / "pretrain").glob("*.log")).read_text()
    assert f"job {before[0]} is still there: waiting for it" in log
    attempts = attempts_of(state)
    assert len(attempts) >= 3 and {row["ranks"] for row in attempts} == {2}
    assert attempts[0]["end"] == "SIGUSR2" and attempts[-1]["end"] == "finished"
    steps = [row["step"] for row in attempts]
    assert steps == sorted(steps) and steps[-1] == 2 * EPOCHS
    result = next((project.folder / "results" / "runs").glob("*/train.json"))
    assert json.loads(result.read_text())["epochs"] == EPOCHS
    curve = [
        json.loads(line)["step"]
        for line in (result.parent / "metrics.jsonl").read_text().splitlines()
    ]
    assert curve == list(range(1, len(curve) + 1)), "no step lost, none twice"
    check_sbatch_lines(cluster)
    check_that_nothing_is_left_to_do(project)


def check_sbatch_lines(cluster):
    """Every rule's resources reached sbatch, through the Slurm executor of Snakemake."""
    wanted = {"fetch_shard": (1440, 4000), "probe_shard": (480, 4000), "cache_shard": (480, 1500)}
    wanted |= {"evaluate": (240, 2000)}
    lines = [line for name, _, line in jobs_of(cluster) if not name.startswith("clip4vla-")]
    for rule, (minutes, memory) in wanted.items():
        mine = [line for line in lines if f"rule_{rule}" in line]
        assert mine, (rule, lines)
        assert re.search(rf"-t '?{minutes}\b", mine[0]), mine[0]
        assert f"--mem {memory}" in mine[0], mine[0]
        assert "-A 'v100'" in mine[0] or "-A v100" in mine[0], mine[0]
        assert "-p v100" in mine[0] and "--requeue" in mine[0], mine[0]


def check_that_nothing_is_left_to_do(project):
    done = subprocess.run(
        project.command("--profile", "slurm", "all", "--dry-run"),
        env=project.environment(),
        capture_output=True,
        text=True,
    )
    assert "Nothing to be done" in done.stdout + done.stderr


def pretraining_of(project):
    """The key of the project's first run."""
    plan = [sys.executable, "-m", "clip4vla.cli", "plan", "-c", str(REPO / "config.yaml")]
    plan += ["-c", str(project.folder / "config.yaml")]
    told = subprocess.run(plan, capture_output=True, text=True, env=project.environment())
    return re.search(r"\b[0-9a-f]{12}\b", told.stdout).group()


def launch(project, key, *options):
    command = [sys.executable, "-m", "clip4vla.cli", "launch", key, "--launcher", "slurm"]
    files = f"{REPO / 'config.yaml'}:{project.folder / 'config.yaml'}"
    environment = project.environment() | {"CLIP4VLA_CONFIG": files}
    return subprocess.run(
        [*command, "--threads", "1", "--mem-mb", "1500", *options],
        cwd=project.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_training_that_is_refused_is_not_submitted_again(cluster, tmp_path):
    """No data yet: the job ends with a user's mistake, whose line the driver hands on."""
    project = Small(tmp_path / "project")
    key = pretraining_of(project)
    done = launch(project, key)
    assert done.returncode == 78
    assert "is not frozen yet" in done.stderr and "ended as FAILED (exit code 78)" in done.stderr
    assert len(list((project.folder / "runs" / key / "slurm").glob("[0-9]*"))) == 1


def test_what_sbatch_refuses_is_one_line(cluster, tmp_path):
    project = Small(tmp_path / "project")
    key = pretraining_of(project)
    done = launch(project, key, "--partition", "nowhere")
    assert done.returncode == 78
    assert "sbatch refused" in done.stderr and "Traceback" not in done.stderr
