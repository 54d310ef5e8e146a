"""Render and install the Slurm profile of Snakemake."""

import difflib
import getpass
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_text
from clip4vla.common.options import option

TEMPLATE = Path(__file__).parent / "profile.yaml"
FIELD = re.compile(r"\{(\w+)\}")
EVALUATE_MB = (8000, 16000)  # least, and the request where a node has that much
NAME = re.compile(r"\w[\w-]*")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,&|*:-]*")


@dataclass(frozen=True)
class Cluster:
    """A user's settings of their cluster. An empty text drops the lines that contain it."""

    account: str = option("", "Account, if your cluster needs one.")
    partition: str = option("", "Partition of jobs (see `sinfo`).")
    cpu_partition: str = option("", "Partition of jobs without GPU, if another one.")
    qos: str = option("", "Quality of service, if your cluster needs one.")
    gpu_model: str = option("", "Such as v100, if there are several models.")
    constraint: str = option("", "Features that pre-training needs.")
    nodes: int = option(1, "Machines for pre-training.", min=1)
    gpus_per_node: int = option(8, "GPUs of each of these machines.", min=0)
    threads: int = option(8, "CPU cores per GPU.", min=1)
    minutes: int = option(1440, "Longest time of one job, in minutes.", min=10)
    mem_mb: int = option(64000, "Memory of each of these machines, in MB.", min=1000)


def render(cluster: Cluster) -> str:
    """Return the profile for a cluster. Raises UserError for a value with invalid characters."""
    values = {name: str(value) for name, value in asdict(cluster).items()}
    for name, value in values.items():
        if value and not WORD.fullmatch(value):
            raise UserError(
                f"--{name.replace('_', '-')} {value!r}: invalid characters. Fix: use letters, "
                "digits and _.-,:&|*"
            )
    values["gpu"] = "1" if cluster.gpus_per_node else ""
    values["gpu_job_mem_mb"] = str(min(32000, cluster.mem_mb))
    least, most = EVALUATE_MB
    values["evaluate_mem_mb"] = str(max(least, min(most, cluster.mem_mb)))
    values["gpu_partition"] = ""  # with one partition, the default is enough
    if cluster.cpu_partition:
        values["gpu_partition"], values["partition"] = cluster.partition, ""
    absent = [name for name, value in values.items() if not value]
    lines = []
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        names = [*FIELD.findall(line), *re.findall(r"\*(\w+)$", line)]
        if not any(name in absent for name in names):
            lines.append(FIELD.sub(lambda match: values[match[1]], line))
    return "\n".join(lines) + "\n"


def user_folder() -> Path:
    """Return the folder in which Snakemake looks for this user's profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "snakemake")


def install(text: str, name: str, replace: bool) -> Path:
    """Write the user's profile `name`; return its path.

    UserError for a profile that exists and differs, unless `replace`: then the old one is kept as
    config.yaml.before, config.yaml.before-2 and so on.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: invalid name. Fix: use letters, digits, _ and -")
    if name == "default":
        raise UserError(
            "--name default: Snakemake may load it over another profile. Fix: choose another name"
        )
    path = user_folder() / name / "config.yaml"
    if path.exists() and (old := path.read_text(encoding="utf-8", errors="replace")) != text:
        if not replace:
            changed = difflib.unified_diff(old.splitlines(), text.splitlines(), n=0, lineterm="")
            shown = [line for line in changed if not line.startswith(("---", "+++", "@@"))]
            problem = f"{path}: exists and differs. Fix: --replace overwrites it:"
            raise UserError(problem, *shown)
        shutil.copyfile(path, _unused(path.with_suffix(".yaml.before")))
    write_text(path, text)
    return path


def _unused(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3 ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def check(cluster: Cluster) -> None:
    """Raise UserError if this cluster has no such partition, account or QOS for this user.

    Nothing is checked where Slurm gives no answer: the profile may be for another machine.
    """
    partitions = {name.strip("*") for name in _ask("sinfo", "--noheader", "--format=%P")}
    options = {"partition": cluster.partition, "cpu-partition": cluster.cpu_partition}
    for flag, names in options.items():
        unknown = set(filter(None, names.split(","))) - partitions
        if unknown and partitions:
            raise UserError(
                f"--{flag} {', '.join(sorted(unknown))}: no such partition. Fix: choose one of "
                f"{', '.join(sorted(partitions))}"
            )
    rows = [line.partition("|") for line in _associations(getpass.getuser())]
    yours = {account for account, _, _ in rows}
    if cluster.account and yours and cluster.account.lower() not in yours:
        raise UserError(
            f"--account {cluster.account}: not yours. Fix: choose one of {', '.join(sorted(yours))}"
        )
    allowed = {name for _, _, names in rows for name in names.split(",") if name}
    if cluster.qos and allowed and cluster.qos.lower() not in allowed:
        raise UserError(
            f"--qos {cluster.qos}: not yours. Fix: choose one of {', '.join(sorted(allowed))}"
        )


def _associations(user: str) -> list[str]:
    """Return `account|qos,qos` of a user's associations; Slurm keeps them in small letters."""
    return _ask(
        *("sacctmgr", "--noheader", "--parsable2", "show", "assoc"),
        *(f"user={user}", "format=account,qos"),
    )


def _ask(*command: str) -> list[str]:
    """Return the lines of Slurm's answer; [] where the command fails or prints a message."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return [] if any(" " in line for line in lines) else lines
