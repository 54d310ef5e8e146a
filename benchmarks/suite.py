"""Run the quick version of every benchmark against its baseline, and write one table.

    python benchmarks/suite.py [NAME ...] [--set quick|gpu|tiny] [--again] [--limit S] [--record]

Each benchmark is a process of its own, one after the other. Records that are complete, of the same
command, code, machine and packages are kept, so that an interrupted run resumes. `gpu` has the
benchmarks of one GPU at real sizes; `tiny` tries the same ones on a CPU. With `--record` the
records also go into benchmarks/results.json, of which the table in RESULTS.md is made.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.rounds import REPO
from bench.script import machine, software
from bench.table import is_current, markdown

from clip4vla.common.files import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "results.json"
QUICK = {
    "frontend": "frontend.py",
    "reader": "reader.py --rounds 3",
    "read_checks": "read_checks.py --clips 16 --rounds 5",
    "shard_build": "shard_build.py --clips 8 --rounds 2",
    "step": "step.py --architecture ViT-S-32 --rounds 2",
    "coavt_encoder": "coavt_encoder.py --clips 2 --rounds 2 --architecture base_32",
    "coavt_step": "coavt_step.py --architecture base_32 --threads 1",
    "kernels": "kernels.py",
    "train": "train.py --architecture ViT-S-32 --rounds 2",
    "stages": "stages.py --architecture tiny --clips 4 --rounds 3",
    "encoding": "encoding.py",
    "captioning": "captioning.py --clips 8 --words 12 --rounds 2",
    "pair_scoring": "pair_scoring.py --texts 8 --clips 16 --rounds 3",
    "ranking": "evaluate.py --rounds 3 ranking --clips 2000",
    "neighbours": "evaluate.py --rounds 3 neighbours --queries 1000 --donors 20000",
    "captions": "evaluate.py captions --clips 100 --references 5",
    "search": "search.py --windows 8000 --exact-only",
    "plan": "plan.py --share 0.005",
    "start_up": "start_up.py --rounds 2",
}
GPU = {
    "stages": "stages.py --clips 128 --stages 'stage 1' --rounds 10",
    "stages_32": "stages.py",
    "stages_compile": "stages.py --compile --stages 'stage 1' global_to_local",
    "step": "step.py --clips 64",
    "coavt_encoder": "coavt_encoder.py --clips 64 --silent 4",
    "coavt_step": "coavt_step.py --clips 32 --rounds 5",
    "captioning": "captioning.py --clips 32 --words 12 31 --rounds 5",
    "pair_scoring": "pair_scoring.py --texts 256 --clips 256",
    "train": "train.py --clips 64 --workers 12 --threads 4 --rounds 5",
}
TINY = {  # the same ones
    "stages": "stages.py --clips 4 --stages 'stage 1' --rounds 2 --architecture tiny",
    "stages_32": "stages.py --clips 2 --rounds 2 --architecture tiny",
    "stages_compile": "stages.py --compile --stages 'stage 1' --clips 2 --architecture tiny",
    "step": "step.py --rounds 2 --architecture tiny",
    "coavt_encoder": "coavt_encoder.py --clips 2 --rounds 2 --architecture tiny",
    "coavt_step": "coavt_step.py --rounds 2 --architecture tiny --threads 1",
    "captioning": "captioning.py --clips 2 --words 6 --rounds 2 --architecture tiny",
    "pair_scoring": "pair_scoring.py --texts 4 --clips 4 --rounds 2",
    "train": "train.py --rounds 2 --architecture tiny",
}
SETS = {"quick": QUICK, "gpu": {name: f"{line} --device cuda" for name, line in GPU.items()}}
SETS["tiny"] = TINY
SECONDS = {"quick": 600, "gpu": 80, "tiny": 600}  # of one benchmark; nine on a GPU: 12 minutes


def main() -> int:
    """Run the benchmarks of a set; return 1 if one failed."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("names", nargs="*", metavar="NAME", help="all, if left out")
    made.add_argument("--set", choices=SETS, default="quick", dest="kind")
    made.add_argument("--again", action="store_true", help="keep no record")
    made.add_argument("--limit", type=float, help="seconds of one benchmark")
    made.add_argument("--record", action="store_true", help="update benchmarks/results.json")
    options = made.parse_args()
    if options.record and options.kind == "tiny":
        made.error("tiny sizes only show that the benchmarks run: record another set")
    commands, out = SETS[options.kind], REPO / "build" / "bench" / options.kind
    if unknown := set(options.names) - set(commands):
        made.error(f"unknown benchmark: {', '.join(sorted(unknown))}. Known: {', '.join(commands)}")
    chosen = {n: line for n, line in commands.items() if n in (options.names or commands)}
    records = run_all(chosen, out, options.limit or SECONDS[options.kind], options.again)
    write_json(out / "results.json", records)
    write_text(out / "results.md", markdown(records))
    print(f"table: {(out / 'results.md').relative_to(REPO)}")
    if options.record:
        recorded = read_json(RECORDED) if RECORDED.exists() else {}
        known = recorded.get(options.kind, {})
        new = {n: one for n, one in records.items() if is_measured(one) or n not in known}
        good = {name: record for name, record in new.items() if "error" not in record}
        write_json(RECORDED, recorded | {options.kind: known | good})
    else:
        print(f"to record it: python benchmarks/suite.py --set {options.kind} --record, then "
              "python workflow/scripts/docs_tables.py")  # fmt: skip
    return int(any("error" in record for record in records.values()))


def is_measured(record: dict) -> bool:
    """Say whether a record has a number; one without never takes the place of one with."""
    return any(not row["skipped"] for row in record.get("rows", []))


def run_all(commands: dict[str, str], out: Path, limit: float, again: bool = False) -> dict:
    """Run commands one after the other; return the record of each by its name."""
    records = {}
    for number, (name, line) in enumerate(commands.items(), start=1):
        print(f"[{number}/{len(commands)}] {name} ", end="", flush=True)
        record = None if again else kept(out / f"{name}.json", line)
        if record is None:
            began = time.perf_counter()
            record = run_one(name, line, out, limit)
            print(record.get("error") or f"{time.perf_counter() - began:.0f} s", flush=True)
        else:
            print("kept", flush=True)
        records[name] = record
    return records


def kept(path: Path, line: str) -> dict | None:
    """Return the record of an earlier run if it would say the same today, else None."""
    with contextlib.suppress(OSError, ValueError):
        record = read_json(path)
        here = machine(record["device"]), software()
        if record.get("command") == line and (record["machine"], record["software"]) == here:
            return record if is_current(record) else None
    return None


def run_one(name: str, line: str, out: Path, limit: float) -> dict:
    """Run one benchmark with a time limit; what it prints goes to a log beside its record."""
    script, *words = shlex.split(line)
    path, log = out / f"{name}.json", out / f"{name}.log"
    path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / script), "--json", str(path), *words]
    paths = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
        )
        try:
            code, error = process.wait(limit), ""
        except subprocess.TimeoutExpired:
            code, error = -1, f"stopped after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # and its own processes
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0 and path.is_file():
        record = read_json(path) | {"command": line}
        write_json(path, record)
        return record
    last = (log.read_text().strip().splitlines() or ["without a word"])[-1]
    return {"command": line, "error": error or f"failed: {last}"}


if __name__ == "__main__":
    sys.exit(main())
