"""The Slurm profile of Snakemake: a template, and the user's own copy of it."""

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

TEMPLATE = Path(__file__).parent / "profile.yaml"
FIELD = re.compile(r"\{(\w+)\}")
EVALUATE_MB = (8000, 16000)  # least, and what it asks for where a node has that much
NAME = re.compile(r"\w[\w-]*")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,&|*:-]*")


@dataclass(frozen=True)
class Cluster:
    """What a user knows of their cluster. An empty text drops the lines that would hold it."""

    account: str = ""
    partition: str = ""
    cpu_partition: str = ""  # of jobs without GPU; else the same
    qos: str = ""
    gpu_model: str = ""
    constraint: str = ""
    nodes: int = 1
    gpus_per_node: int = 8
    threads: int = 8
    minutes: int = 1440
    mem_mb: int = 64000


def render(cluster: Cluster) -> str:
    """The profile for a cluster. Raises UserError for a value that could not stand in it."""
    values = {name: str(value) for name, value in asdict(cluster).items()}
    for name, value in values.items():
        if value and not WORD.fullmatch(value):
            raise UserError(
                f"--{name.replace('_', '-')} {value!r}: use letters, digits and _.-,:&|*"
            )
    values["gpu"] = "1" if cluster.gpus_per_node else ""
    values["gpu_job_mem_mb"] = str(min(32000, cluster.mem_mb))
    least, most = EVALUATE_MB
    values["evaluate_mem_mb"] = str(max(least, min(most, cluster.mem_mb)))
    values["gpu_partition"] = ""  # with one partition for all, the default says it
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
    """Where Snakemake looks for profiles of this user."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "snakemake")


def install(text: str, name: str, replace: bool) -> Path:
    """Write the user's profile `name`; refuses to change one that is there unless `replace`.

    What it replaces is kept, as config.yaml.before, config.yaml.before-2 and so on.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: use letters, digits, _ and -")
    if name == "default":
        raise UserError("--name default: Snakemake may load it unasked, over another; name it else")
    path = user_folder() / name / "config.yaml"
    if path.exists() and (old := path.read_text(encoding="utf-8", errors="replace")) != text:
        if not replace:
            changed = difflib.unified_diff(old.splitlines(), text.splitlines(), n=0, lineterm="")
            shown = "\n".join(line for line in changed if not line.startswith(("---", "+++", "@@")))
            raise UserError(f"{path} is there and differs; --replace overwrites it:\n{shown}")
        shutil.copyfile(path, _unused(path.with_suffix(".yaml.before")))
    write_text(path, text)
    return path


def _unused(path: Path) -> Path:
    """The path, or the first of path-2, path-3 ... that is not there."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def check(cluster: Cluster) -> None:
    """UserError when this cluster has no such partition or account for this user.

    Says nothing where Slurm cannot be asked: the profile may be written on another machine.
    """
    partitions = {name.strip("*") for name in _ask("sinfo", "--noheader", "--format=%P")}
    given = {"partition": cluster.partition, "cpu-partition": cluster.cpu_partition}
    for option, names in given.items():
        unknown = set(filter(None, names.split(","))) - partitions
        if unknown and partitions:
            raise UserError(
                f"--{option} {', '.join(sorted(unknown))}: this cluster has "
                f"{', '.join(sorted(partitions))}"
            )
    rows = [line.partition("|") for line in _associations(getpass.getuser())]
    yours = {account for account, _, _ in rows}
    if cluster.account and yours and cluster.account.lower() not in yours:
        raise UserError(f"--account {cluster.account}: yours are {', '.join(sorted(yours))}")
    allowed = {name for _, _, names in rows for name in names.split(",") if name}
    if cluster.qos and allowed and cluster.qos.lower() not in allowed:
        raise UserError(f"--qos {cluster.qos}: yours are {', '.join(sorted(allowed))}")


def _associations(user: str) -> list[str]:
    """`account|qos,qos` of this user's associations, as Slurm has them: in small letters."""
    return _ask(
        *("sacctmgr", "--noheader", "--parsable2", "show", "assoc"),
        *(f"user={user}", "format=account,qos"),
    )


def _ask(*command: str) -> list[str]:
    """Return the lines of Slurm's answer; [] where it cannot be asked or prints a message."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.strip() for line in told.stdout.splitlines() if line.strip()]
    return [] if any(" " in line for line in lines) else lines
