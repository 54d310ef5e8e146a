"""`make demo`: the whole workflow on the demo clips, in build/demo, without a network."""

import argparse
import contextlib
import csv
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
sys.path.insert(0, str(HERE))

from serve import DemoSite  # noqa: E402

from clip4vla.common.errors import UserError, describe_os_error  # noqa: E402
from clip4vla.common.programs import program  # noqa: E402


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPO / "build" / "demo", help="where all goes")
    parser.add_argument("--port", type=int, default=8347, help="loopback port of the demo's server")
    parser.add_argument("--config", type=Path, action="append", default=[], help="more overrides")
    parser.add_argument("snakemake", nargs="*", help="more arguments for snakemake, after --")
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with (
            only_one(options.out) as lock,
            DemoSite(options.out / "site", options.port),
        ):
            return run(options, lock.fileno())
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
    except OSError as error:
        print(f"demo: {describe_os_error(error)}", file=sys.stderr)
    return 2


def run(options: argparse.Namespace, lock: int) -> int:
    """Run Snakemake in the output folder and say where to look.

    Snakemake inherits the lock: killed alone, this process leaves it held until Snakemake ends.
    """
    started = time.monotonic()
    environment = dict(os.environ)
    # The rules call `clip4vla` and `snakemake` of this environment, whatever else is on PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    snakemake = [sys.executable, "-m", "snakemake"]
    base = ["--snakefile", str(REPO / "workflow" / "Snakefile")]
    base += ["--directory", str(options.out), "--profile", str(REPO / "profiles" / "demo")]
    base += ["--configfile", str(HERE / "config.yaml"), *map(str, options.config)]
    if options.port != 8347:
        site = f"http://127.0.0.1:{options.port}"
        urls = {"demo": {"url": f"{site}/{{file}}"}, "world": {"url": f"{site}/world/{{file}}"}}
        base += ["--config", f"datasets={json.dumps(urls)}"]
    # Whoever held the lock of an earlier demo is dead (`only_one`): its Snakemake lock is stale.
    if any((options.out / ".snakemake" / "locks").glob("*")):
        unlock = [*snakemake, "--unlock", *base]
        subprocess.run(unlock, env=environment, capture_output=True, check=False)
    command = [*snakemake, *options.snakemake, *base]
    process = subprocess.Popen(command, env=environment, pass_fds=[lock])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = wait(process)
    if code == 0 and not options.snakemake:
        where_to_look(options.out, time.monotonic() - started)
    return code


def wait(process: subprocess.Popen) -> int:
    """Wait for Snakemake. A Ctrl-C reaches it from the terminal, and it stops in good order."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def only_one(out: Path):
    """Hold the demo's lock. A demo whose terminal was killed may still be running: wait for it."""
    stream = open(out / ".lock", "a")  # noqa: SIM115 (held until the process ends)
    told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if not told:
                print(f"demo: another demo works in {out}; waiting for it to end", flush=True)
                told = True
            time.sleep(0.5)


def where_to_look(out: Path, seconds: float) -> None:
    """The closing lines: every result and how to open it."""
    shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    print(
        f"""
The demo is complete ({seconds:.0f} s). Tiny random towers: the numbers show the form alone.
{what_was_learnt(out)}\
  tables and figures   {shown}/results/index.html
{a_table(out, shown)}\
  Snakemake report     {shown}/results/report.zip   (unpack, open report.html)
  what was missing     {shown}/data/*/coverage.csv, missing.tsv
  donors of sound      {shown}/results/runs/*/substitution.tsv
{in_mlflow(out, shown)}\
{how_to_search(out, shown)}\
`make demo` again has nothing to do. Edit a row in demo/experiments: it reruns, and its table."""
    )


def a_table(out: Path, shown: Path) -> str:
    """Name a table of the page: the demo's first one, or that of another project."""
    tables = sorted(path.parent.name for path in out.glob("results/tables/*/table.md"))
    if not tables:
        return "  no table             no target of this config is a table\n"
    name = "demo_retrieval" if "demo_retrieval" in tables else tables[0]
    return f"  one table            {shown}/results/tables/{name}/table.md\n"


def in_mlflow(out: Path, shown: Path) -> str:
    """How to look at the runs in MLflow; none if `tracking.sink` is off."""
    synced = out / "mlflow" / "synced.json"
    if not synced.is_file():
        return ""
    runs = json.loads(synced.read_text())["runs"]
    store = shlex.quote(f"sqlite:///{shown}/mlflow/mlflow.db")
    return f"  {f'{runs} MLflow runs':<21}{program('mlflow')} ui --backend-store-uri {store}\n"


def what_was_learnt(out: Path) -> str:
    """What the rows of the synthetic world found; none if one of them did not run."""
    table = out / "results" / "tables" / "demo_world" / "table.csv"
    if not table.is_file():
        return ""
    with open(table, encoding="utf-8", newline="") as stream:
        found = {
            row["row"]: float(row["ours"])
            for row in csv.DictReader(stream)
            if row["column"] == "t2v_R1" and row["ours"]
        }
    if not found.keys() >= {"vision", "audio", "both"}:
        return ""
    return (
        f"But in the synthetic world R@1 is {found['vision']:.0f} by sight, {found['audio']:.0f} "
        f"by hearing, {found['both']:.0f} by both (chance 3).\n"
    )


def how_to_search(out: Path, shown: Path) -> str:
    """Commands by the model that reads pictures and sound, pre-trained; none if it did not run."""
    rows = out / "results" / "tables" / "demo_retrieval" / "rows.json"
    if not rows.is_file():
        return ""
    table = json.loads(rows.read_text())
    (cells,) = (row["cells"] for row in table["rows"] if row["row"] == "clip4vla")
    metrics = out / "results" / "runs" / cells[0]["run_key"] / "metrics.json"
    run_key = json.loads(metrics.read_text())["checkpoint"]["run_key"]
    model = shlex.quote(f"{shown}/results/runs/{run_key}/model.safetensors")
    index, clips, command = shlex.quote(f"{shown}/clips.index"), HERE / "clips", program("clip4vla")
    clips = clips.relative_to(Path.cwd()) if clips.is_relative_to(Path.cwd()) else clips
    return f"""Search these clips (docs/search.md says what so small a model can find):
  {command} index {shlex.quote(str(clips))} --checkpoint {model} --out {index}
  {command} search {index} "a dog barks"
  {command} search {index} --audio {shlex.quote(str(clips / "say_dog.mp4"))}
"""


if __name__ == "__main__":
    sys.exit(main())
