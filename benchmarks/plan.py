"""Plans HowTo100M and AudioSet at the paper's size, then dry-runs the whole experiment.

The annotation files are synthetic, in the official formats and at the official sizes (1.2 M videos
with 113 captions each, 2 M segments), written to a scratch folder that is removed at the end: whole
size needs about 9 GB of disk. Each step runs in a process of its own, whose peak memory is printed.

    python benchmarks/plan.py --share 0.1 --scratch /somewhere
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
HOWTO, AUDIOSET, CAPTIONS, LABELS = 1_200_000, 2_000_000, 113, 527
SHARDS = {"howto100m": 586, "audioset": 490}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TEXT = "now you take the pan and a little bit of oil so that it does not stick okay then we"
TARGET_JOBS = 5_000


def ids(count, kind):
    """Distinct ids in an order that looks random."""
    for number in range(count):
        scattered = number * 0x9E3779B97F4A7C15 % (1 << 60)  # odd factor: one to one
        text = "".join(LETTERS[scattered >> (6 * place) & 63] for place in range(10))
        yield kind + text


def write_howto(folder, count):
    folder.mkdir(parents=True)
    chance, words = random.Random(0), TEXT.split()
    tracks = []
    for _ in range(1000):
        start, track = 0.0, {"start": [], "end": [], "text": []}
        for _ in range(CAPTIONS):
            length = round(chance.uniform(1.0, 5.0), 2)
            track["start"].append(round(start, 2))
            track["end"].append(round(start + length, 2))
            track["text"].append(" ".join(chance.choices(words, k=chance.randint(2, 6))))
            start += length * chance.uniform(0.5, 1.0)
        tracks.append(json.dumps(track))
    with (
        open(folder / "HowTo100M_v1.csv", "w") as table,
        open(folder / "raw_caption.json", "w") as captions,
    ):
        table.write("video_id,category_1,category_2,rank,task_id\n")
        for number, video in enumerate(ids(count, "h")):
            table.write(f"{video},Food and Entertaining,Recipes,{number % 200},{number % 23000}\n")
            before = "{" if number == 0 else ", "
            captions.write(f'{before}"{video}": {tracks[number % len(tracks)]}')
        captions.write("}\n")


def write_audioset(folder, count):
    folder.mkdir(parents=True)
    chance = random.Random(1)
    mids = [f"/m/0{number:04x}" for number in range(LABELS)]
    with open(folder / "class_labels_indices.csv", "w") as table:
        table.write("index,mid,display_name\n")
        for number, mid in enumerate(mids):
            table.write(f'{number},{mid},"Sound, number {number}"\n')
    chosen = [",".join(chance.sample(mids, chance.randint(1, 4))) for _ in range(5000)]
    with open(folder / "unbalanced_train_segments.csv", "w") as table:
        table.write(f"# Segments csv\n# num_ytids={count}\n# YTID, start_seconds, ...\n")
        for number, video in enumerate(ids(count, "a")):
            start = number % 60 * 10
            labels = chosen[number % len(chosen)]
            table.write(f'{video}, {start}.000, {start + 10}.000, "{labels}"\n')


def plan_one(reader, folder, out, shards):
    """The work of rule plan_dataset, in this process; prints what it cost as JSON."""
    from clip4vla.common.files import write_table
    from clip4vla.config.data import Dataset
    from clip4vla.datasets.plan import plan_tables

    begin = time.perf_counter()
    dataset = Dataset(reader=reader, annotations=folder, media=folder, shards=shards)
    clips, splits, _ = plan_tables(reader, dataset)
    write_table(out / "plan.parquet", clips)
    write_table(out / "splits.parquet", splits)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    costs = {"seconds": seconds, "cpu": time.process_time(), "gib": peak, "clips": len(clips)}
    print(json.dumps(costs))


def planned(reader, folder, out, shards):
    out.mkdir(parents=True)
    command = [sys.executable, __file__, "--one", reader, str(folder), str(out), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def dry_run(folder, shards):
    """(jobs, seconds, GiB) of `snakemake -n` for every table of the paper."""
    folder.mkdir()
    targets = sorted(path.stem for path in (REPO / "experiments").glob("*.yaml"))
    values = {"targets": targets}
    values["datasets"] = {name: {"shards": number} for name, number in shards.items()}
    (folder / "all.yaml").write_text(json.dumps(values))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "workflow/Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "all.yaml")]
    command += ["--dry-run", "--quiet", "rules", "--cores", "1", "all"]
    begin = time.perf_counter()
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        log.seek(0)
        text = log.read()
    if status:
        raise SystemExit(text[-3000:])
    (jobs,) = re.findall(r"^total +(\d+)$", text, re.MULTILINE)[:1]
    return int(jobs), time.perf_counter() - begin, usage.ru_maxrss / 1024**2, targets


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.1, help="of the 3.2 M ids")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/clip4vla-plan"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        reader, folder, out, shards = options.one
        return plan_one(reader, Path(folder), Path(out), int(shards))
    scratch = options.scratch
    shutil.rmtree(scratch, ignore_errors=True)
    names = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "pandas", "snakemake"))
    print(f"Python {platform.python_version()}, {names}, {os.cpu_count()} cores")
    try:
        shards = {name: max(1, round(number * options.share)) for name, number in SHARDS.items()}
        total = 0.0
        for reader, write, count in (
            ("howto100m", write_howto, HOWTO),
            ("audioset", write_audioset, AUDIOSET),
        ):
            count = round(count * options.share)
            write(scratch / reader, count)
            size = sum(path.stat().st_size for path in (scratch / reader).iterdir()) / 1e9
            cost = planned(reader, scratch / reader, scratch / f"{reader}-out", shards[reader])
            total += cost["seconds"]
            print(
                f"{reader}: {count:,} ids ({size:.2f} GB of annotations) -> {cost['clips']:,} "
                f"clips in {shards[reader]} shards: {cost['seconds']:.0f} s "
                f"({cost['cpu']:.0f} s of CPU), {cost['gib']:.2f} GiB",
                flush=True,
            )
        jobs, seconds, gib, targets = dry_run(scratch / "dry", shards)
        print(f"snakemake -n {' '.join(targets)}: {jobs:,} jobs, {seconds:.1f} s, {gib:.2f} GiB")
        print(f"planning {total:.1f} s in all; jobs below {TARGET_JOBS:,}: {jobs < TARGET_JOBS}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
