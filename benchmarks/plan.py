"""Plans HowTo100M and AudioSet at the paper's size, then dry-runs the whole experiment.

The annotation files are synthetic, in the official formats and at the official sizes (1.2 M videos
with 113 captions each, 2 M segments), written to a scratch folder that is removed at the end: whole
size needs about 9 GB of disk. Each step runs in a process of its own.

    python benchmarks/plan.py --share 0.1 --scratch /somewhere
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import bench

CODE = "clip4vla/config", "clip4vla/datasets", "rules", "workflow/Snakefile"
HOWTO, AUDIOSET, CAPTIONS, LABELS = 1_200_000, 2_000_000, 113, 527
SHARDS = {"howto100m": 586, "audioset": 490}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TEXT = "now you take the pan and a little bit of oil so that it does not stick okay then we"


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


def planning(reader, folder, out, shards):
    """A side: the work of rule plan_dataset; returns the number of clips."""
    from pyarrow.parquet import read_metadata

    from clip4vla.common.files import write_parts
    from clip4vla.config.data import Dataset
    from clip4vla.datasets.plan import plan_rows

    def plan():
        dataset = Dataset(reader=reader, annotations=folder, media=folder, shards=shards)
        clips, splits, _ = plan_rows(reader, dataset)
        write_parts(out / "splits.parquet", splits.parts())
        write_parts(out / "plan.parquet", clips.parts())
        return read_metadata(out / "plan.parquet").num_rows

    return plan


def dry_run(folder, shards):
    """A side: `snakemake -n` for every table of the papers; returns the number of jobs."""
    folder.mkdir()
    targets = sorted(path.stem for path in (bench.REPO / "experiments").glob("*.yaml"))
    datasets = {name: {"shards": number} for name, number in shards.items()}
    (folder / "all.yaml").write_text(json.dumps({"targets": targets, "datasets": datasets}))
    command = [sys.executable, "-m", "snakemake", "--snakefile"]
    command += [str(bench.REPO / "workflow" / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "all.yaml")]
    command += ["--dry-run", "--quiet", "rules", "--cores", "1", "all"]

    def run():
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(done.stdout[-3000:])
        return int(re.findall(r"^total +(\d+)$", done.stdout, re.MULTILINE)[0])

    return run


def parser():
    made = bench.parser(__doc__, rounds=1)
    made.add_argument("--share", type=float, default=0.1, help="of the 3.2 M ids")
    made.add_argument("--scratch", type=Path, help="default: the folder of temporary files")
    return made


def rows(options):
    shards = {name: max(1, round(number * options.share)) for name, number in SHARDS.items()}
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as home:
        for reader, write, whole in (
            ("howto100m", write_howto, HOWTO),
            ("audioset", write_audioset, AUDIOSET),
        ):
            count, folder, out = (
                round(whole * options.share),
                Path(home) / reader,
                Path(home) / "out",
            )
            write(folder, count)
            with bench.Apart(planning, reader, folder, out, shards[reader]) as side:
                yield bench.compare(
                    f"planning {count:,} ids of {reader}",
                    side,
                    options=options,
                    note=lambda ours, _: f"{ours.result:,} clips",
                    memory=True,
                )
        yield bench.compare(
            f"snakemake -n of every table, {options.share:.1%} of the shards",
            dry_run(Path(home) / "dry", shards),
            options=options,
            target="at most 12 s" if options.share == 1 else "",
            note=lambda ours, _: f"{ours.result:,} jobs",
        )


if __name__ == "__main__":
    bench.main(parser(), rows, code=CODE)
