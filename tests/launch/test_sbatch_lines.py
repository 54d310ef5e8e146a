"""Requests of every rule to Slurm: the whole line for Snakemake's executor, the script for submitit."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clip4vla.common.errors import UserError
from clip4vla.launch import slurm
from clip4vla.launch.profile import Cluster, render
from clip4vla.launch.request import Request

REPO = Path(__file__).parents[2]
ALWAYS = {"--parsable", "--job-name", "--output", "--export", "--comment"}
CLUSTER = Cluster(  # names that Python or YAML would take for something else
    account="0123",
    partition="all",
    cpu_partition="1e3",
    qos="no",
    gpu_model="2080",
    threads=6,
    minutes=900,
    mem_mb=100000,
)


def options_of(line):
    """Options of an sbatch line, without those that say nothing of machines."""
    words, options = shlex.split(line)[1:], {}
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        options[name] = value
    return {name: value for name, value in options.items() if name not in ALWAYS}


def lines_of(text, folder):
    """The lines with this profile, by rule; the demo has jobs of every rule."""
    (folder / "profile").mkdir(exist_ok=True)
    (folder / "profile" / "config.yaml").write_text(text)
    script = Path(__file__).with_name("sbatch_lines.py")
    command = [sys.executable, str(script), "--snakefile", str(REPO / "workflow" / "Snakefile")]
    command += ["--configfile", str(REPO / "demo" / "config.yaml"), "--profile", "profile"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])
    return {rule: options_of(line) for rule, line in lines.items()}


def asked(partition, minutes, memory, cpus, *gpu):
    """The options of one rule, exactly."""
    common = {"-A": "0123", "-p": partition, "--qos": "no", "--requeue": ""}
    sizes = {"-t": str(minutes), "--mem": str(memory), "--cpus-per-task": str(cpus)}
    return common | sizes | ({"--gpus": gpu[0]} if gpu else {"--ntasks": "1"})


def test_every_rule_requests_the_resources_of_its_profile(tmp_path):
    assert lines_of(render(CLUSTER), tmp_path) == {
        "fetch_shard": asked("1e3", 1440, 4000, 1),
        "probe_shard": asked("1e3", 480, 4000, 1),
        "cache_shard": asked("1e3", 480, 8000, 6),  # memory: the default of all rules
        "substitute": asked("all", 240, 32000, 6, "2080:1"),
        "finetune": asked("all", 900, 32000, 6, "2080:1"),
        "evaluate": asked("all", 240, 16000, 6, "2080:1"),
    }


def test_partitions_may_be_chosen_by_their_limits(tmp_path):
    """The example of a partition file, and more options of sbatch, quoted twice as YAML needs it."""
    content = yaml.safe_load(render(Cluster(account="lab", gpu_model="v100")))
    content["slurm-partition-config"] = "partitions.yaml"
    content["default-resources"]["slurm_extra"] = "'--exclude=node7'"
    (tmp_path / "profile").mkdir()
    example = REPO / "profiles" / "slurm" / "partitions.example.yaml"
    shutil.copy(example, tmp_path / "profile" / "partitions.yaml")
    lines = lines_of(yaml.safe_dump(content), tmp_path)
    assert {rule: options["-p"] for rule, options in lines.items()} == {
        **dict.fromkeys(("fetch_shard", "probe_shard", "cache_shard"), "cpu"),
        **dict.fromkeys(("substitute", "finetune", "evaluate"), "gpu"),
    }
    assert {options["--exclude"] for options in lines.values()} == {"node7"}


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """Submit a request to an sbatch that keeps the script; give its options and its last line."""
    keep = tmp_path / "script"
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    sbatch = f'#!/bin/sh\ncp "$1" {keep}\nenv > {keep}.env\necho Submitted batch job 7\n'
    (tmp_path / "sbatch").write_text(sbatch)
    for name in ("srun", "sbatch"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def submit(request):
        assert slurm._submit("clip4vla-x", ["train", "x"], request, tmp_path / "runs", {}) == "7"
        lines = keep.read_text().splitlines()
        flags = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
        return options_of(shlex.join(["sbatch", *sum(map(shlex.split, flags), [])])), lines[-1]

    return submit


def test_pretraining_requests_all_its_nodes(submitted):
    request = Request(
        nodes=3,
        gpus_per_node=4,
        gpu_model="v100",
        threads=6,
        mem_mb=64000,
        minutes=900,
        partition="gpu",
        account="lab",
        constraint="v100&ib",
        qos="long",
        extra="--exclude=node7 --reservation=clip --exclusive",
    )
    options, command = submitted(request)
    wanted = {
        "--nodes": "3",
        "--ntasks-per-node": "4",
        "--gres": "gpu:v100:4",
        "--cpus-per-task": "6",
        "--mem": "64000M",
        "--time": "900",
        "--partition": "gpu",
        "--account": "lab",
        "--constraint": "v100&ib",
        "--qos": "long",
        "--requeue": "",
        "--signal": "USR2@180",
        "--exclude": "node7",
        "--reservation": "clip",
        "--exclusive": "",
        "--open-mode": "append",
    }
    assert wanted.items() <= options.items()
    assert set(options) - set(wanted) == {"--error", "--wckey"}  # submitit's own
    assert "srun --unbuffered" in command and "--kill-on-bad-exit=1 --immediate=900" in command
    assert "--cpus-per-task=6" in command.split(), "srun does not take it over from sbatch"


def test_pretraining_leaves_open_choices_to_the_cluster(submitted):
    options, _ = submitted(Request())
    chosen = {"--partition", "--account", "--constraint", "--qos", "--mem", "--gres"}
    assert not chosen & set(options) and not [name for name in options if "gpu" in name]
    options, _ = submitted(Request(gpus_per_node=8))
    assert options["--gpus-per-node"] == "8" and options["--ntasks-per-node"] == "8"


REFUSED = "--nodes=2|-N 2|--gpus-per-node=1|exclude=node7|--job_name=other|--array=0-3|--part=cpu"


@pytest.mark.parametrize("extra", [*REFUSED.split("|"), "--wckey=x", "--parsable", "--ntasks=4"])
def test_a_reserved_option_is_refused(submitted, extra):
    with pytest.raises(UserError, match="slurm_extra '"):
        submitted(Request(extra=extra))


@pytest.mark.parametrize("job", [None, "41"])
def test_a_users_exports_fill_open_choices_outside_of_jobs(submitted, tmp_path, monkeypatch, job):
    kept = {"SLURM_CONF": "/etc/x"}
    wanted = {"SBATCH_ACCOUNT": "lab", "SBATCH_RESERVATION": "clip"}
    others = {"SBATCH_PARTITION": "cpu", "SBATCH_TIMELIMIT": "1", "SLURM_MEM_PER_NODE": "1"}
    for name, value in (kept | wanted | others).items():
        monkeypatch.setenv(name, value)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    else:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    submitted(Request(partition="gpu"))
    lines = (tmp_path / "script.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line.startswith(("SLURM_", "SBATCH_")))
    assert found == (kept if job else kept | wanted)
