"""The whole on a real two-node Slurm: pre-emption, time limit, a killed Snakemake, the sbatch lines."""

import contextlib
import json
import os
import re
import shlex
import signal
import sys
import time

import psutil
import pytest
from small import EPOCHS, REPO, Small
from watch import (
    attempts_of,
    curve_of,
    key_of,
    pretrainings,
    ranks_of,
    reached,
    until,
    was_told,
)

pytestmark = pytest.mark.slurm


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


def test_snakemake_profile_slurm_all_survives_what_a_cluster_does(
    cluster, impatient, planned, setup, tmp_path
):
    """The literal command: executor jobs before and after a pre-training of two nodes."""
    project = planned.copy(tmp_path / "project")
    setup(project, pretrain_in="scavenge")
    earlier = len(pretrainings(cluster))  # other tests' jobs

    snakemake = project.start("--profile", "slurm", "all")
    state = until(lambda: next((project.folder / "runs").glob("*"), None), "the run", 300)
    until(lambda: reached(state), "a checkpoint")
    before = [job[1] for job in pretrainings(cluster)[earlier:]]
    meet_the_time_limit(cluster, state, before[0])
    until(lambda: reached(state) > attempts_of(state)[0]["step"], "progress in the second attempt")
    more_urgent = ("--partition=v100", "--nodes=2", "--exclusive", "--output=/dev/null")
    cluster.slurm("sbatch", *more_urgent, "--wrap=sleep 2")
    os.killpg(snakemake.pid, signal.SIGKILL)  # with it the rule that waits for the job
    snakemake.wait()
    project.run("snakemake", "--profile", "slurm", "--unlock")
    again = project.start("--profile", "slurm", "all")
    assert again.wait(timeout=900) == 0, project.log()[-3000:]

    after = [job[1] for job in pretrainings(cluster)[earlier:]]
    assert after == before and len(before) == 1, "submitted once"
    log = next((project.folder / "logs" / "pretrain").glob("*.log")).read_text()
    assert f"job {before[0]} still exists: waiting for it" in log
    attempts = attempts_of(state)
    assert len(attempts) >= 3 and {row["ranks"] for row in attempts} == {2}
    assert attempts[0]["end"] == "SIGUSR2" and attempts[-1]["end"] == "finished"
    steps = [row["step"] for row in attempts]
    assert steps == sorted(steps) and steps[-1] == 2 * EPOCHS
    result = next((project.folder / "results" / "runs").glob("*/train.json"))
    assert json.loads(result.read_text())["epochs"] == EPOCHS
    assert curve_of(result.parent) == list(range(1, 2 * EPOCHS + 1)), "no step lost, none twice"
    check_the_executors_jobs(cluster)
    left = project.run("snakemake", "--profile", "slurm", "all", "--dry-run")
    assert "Nothing to be done" in left.stdout + left.stderr


def check_the_executors_jobs(cluster):
    """What Snakemake itself submitted ran on the nodes, and asked for what the profile says."""
    wanted = {"cache_shard": (480, 1500), "evaluate": (240, 8000)}
    form = "--format=State,NodeList,SubmitLine%2000"
    told = cluster.slurm("sacct", "-X", "--noheader", "--parsable2", form).splitlines()
    for rule, (minutes, memory) in wanted.items():
        mine = [line.split("|", 2) for line in told if f"rule_{rule}" in line]
        assert mine, (rule, told)
        state, node, line = mine[-1]  # other tests' jobs are before it
        assert state == "COMPLETED" and node in ("v100-1", "v100-2")
        assert re.search(rf"-t '?{minutes}\b", line) and f"--mem {memory}" in line, line
        assert re.search(r"-A '?v100\b", line) and "-p v100" in line and "--requeue" in line, line


def test_slurm_takes_the_line_of_every_rule(cluster, setup, tmp_path):
    """With GPUs: the test's nodes have two each, which are none."""
    project = Small(tmp_path / "project")
    given = {"gpus-per-node": 2, "gpu-model": "v100", "cpu-partition": "scavenge", "qos": "normal"}
    setup(project, threads=4, **{"mem-mb": 8000}, **given)
    script = REPO / "tests" / "launch" / "sbatch_lines.py"
    demo = ("-s", str(REPO / "workflow/Snakefile"), "--configfile", str(REPO / "demo/config.yaml"))
    told = project.run(sys.executable, str(script), "--profile", "slurm", *demo).stdout
    lines = json.loads(told.splitlines()[-1])
    assert len(lines) == 6
    for line in lines.values():
        project.run(*shlex.split(line), "--test-only", "--wrap", "true")


def launch(project, key, *options, expect=78):
    command = ("clip4vla", "launch", key, "--launcher", "slurm", "--threads", "1")
    return project.run(*command, "--mem-mb", "1500", *options, expect=expect).stderr


def test_a_training_that_is_refused_is_not_submitted_again(cluster, tmp_path):
    """No data yet: the job ends with a user's mistake, whose line the driver hands on."""
    project = Small(tmp_path / "project")
    key = key_of(project)
    asked = ("--nodes", "2", "--gpus-per-node", "2", "--gpu-model", "v100", "--minutes", "7")
    asked += ("--partition", "v100", "--account", "v100", "--constraint", "v100", "--qos", "normal")
    told = launch(project, key, *asked, "--extra", "--comment=clip")
    assert "is not frozen yet" in told and "the training refused to run" in told
    (job,) = (project.folder / "runs" / key / "slurm").glob("[0-9]*")
    form = "--format=NNodes,ReqTRES,TimelimitRaw,Partition,Account,Constraints,QOS,Comment"
    line = cluster.slurm("sacct", "-X", "--noheader", "--parsable2", "-j", job.name, form)
    nodes, tres, *others = line.strip().split("|")
    assert nodes == "2" and "gres/gpu:v100=4" in tres and "mem=3000M" in tres
    assert others == ["7", "v100", "v100", "v100", "normal", "clip"]


def test_what_sbatch_refuses_is_one_line(cluster, tmp_path):
    project = Small(tmp_path / "project")
    told = launch(project, key_of(project), "--partition", "nowhere")
    assert "sbatch refused" in told and "Traceback" not in told


def test_what_the_cluster_does_not_have_is_one_line(cluster, setup, tmp_path):
    project = Small(tmp_path / "project")
    setup(project)
    wrong = {
        "--partition": (
            "nowhere",
            "--partition nowhere: no such partition. Fix: choose one of scavenge, v100",
        ),
        "--account": ("nobody", "--account nobody: not yours. Fix: choose one of root, v100"),
        "--qos": ("never", "--qos never: not yours. Fix: choose one of normal"),
    }
    for option, (value, message) in wrong.items():
        told = project.run("clip4vla", "setup", "slurm", option, value, expect=78).stderr
        assert told.splitlines()[1:] == [f"clip4vla: {message}"]
