"""The command line of a benchmark, and the record that it writes for the runner."""

import argparse
import contextlib
import dataclasses
import datetime
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.rounds import REPO, cpu_seconds, peak_gib, set_threads
from bench.rows import MissingBaseline, Row, measured_code
from clip4vla.common.files import canonical_json, sha256_of, sha256_of_file, write_json

PACKAGES = "torch torchaudio torchvision numpy av pillow pyarrow lancedb snakemake imageio-ffmpeg"
PACKAGES += " pycocoevalcap librosa soundfile faiss-cpu"


def parser(doc: str, *, rounds: int, device: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have, named by their docstring."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help="timed ones, after one to warm up")
    made.add_argument("--threads", type=int, default=1)
    if device:
        made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--json", type=Path, help="also write a record of rows, machine and code")
    return made


def main(
    made: argparse.ArgumentParser,
    rows: Callable[[argparse.Namespace], Iterable[Row]],
    code: Iterable[str] = (),
) -> None:
    """Run a benchmark: print its rows as they come, and write its record at the end.

    code: files and folders that are measured in other processes than this one and `Apart`. Also
    recorded are the files of the package that sides ran, the script, and what it imports from its
    folder, such as code of a baseline.
    """
    options, found, began = made.parse_args(), [], time.perf_counter()
    device = getattr(options, "device", "cpu")
    set_threads(options.threads)
    print(f"{machine(device)}; {options.threads} thread(s)")
    print(software(), flush=True)
    try:
        for row in rows(options):
            print(row.text(), flush=True)
            found.append(row)
    except MissingBaseline as error:
        print(f"skipped: {error}")
        found.append(Row("", skipped=str(error)))
    if options.json:
        measured_code.update(code, scripts())
        record = {
            "rows": [dataclasses.asdict(row) for row in found],
            "device": device,
            "machine": machine(device),
            "software": software(),
            "load": round(os.getloadavg()[0], 1),
            "threads": options.threads,
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(cpu_seconds(), 1),
            "peak_gib": round(max(peak_gib(), peak_gib(resource.RUSAGE_CHILDREN)), 2),
            "code": sorted(measured_code),
            "code_sha256": code_sha256(measured_code),
        }
        write_json(options.json, record)


def scripts() -> set[str]:
    """Return the script that runs, and the modules that it imported from its own folder."""
    folder = Path(sys.argv[0]).resolve().parent
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = [Path(file).resolve() for file in files if file]
    return {os.path.relpath(path, REPO) for path in paths if path.parent == folder}


def code_sha256(places: Iterable[str]) -> str:
    """Return the hash of files and folders of this repository; FileNotFoundError for others."""
    files = []
    for place in places:
        path = REPO / place
        files += [*path.rglob("*.py"), *path.rglob("*.smk")] if path.is_dir() else [path]
    names = {os.path.relpath(file, REPO): sha256_of_file(file) for file in files}
    return sha256_of(canonical_json(names))


def machine(device: str) -> str:
    """Return cores, processor and, if it is used, the GPU."""
    with open("/proc/cpuinfo") as stream:
        models = [line.split(":")[1].strip() for line in stream if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    text = f"{len(os.sched_getaffinity(0))} cores of {processor}"
    if device == "cuda":
        import torch

        text = f"one {torch.cuda.get_device_name()}, {text}"
    return text


def software() -> str:
    """Return the versions of Python and of the packages that matter to speed."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES.split():
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)
