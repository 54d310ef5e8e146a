"""A working folder and a server that refuses some clips for now, for tests of a dataset."""

import csv
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import yaml
from rich.console import Console

from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.stages import data, data_status

REPO = Path(__file__).parents[2]


FILES = {  # clip: file, split
    "good": ("ok/good.mp4", "train"),
    "fine": ("ok/fine.mp4", "test"),
    "lost": ("404/lost.mp4", "train"),
    "full": ("429x1/full.mp4", "test"),
    "late": ("429x2/late.mp4", "train"),
    "page": ("shorter/page.mp4", "val"),
}


class World:
    """A working folder, a server that refuses some clips for now, and the config of both."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.config = folder, folder / "mine.yaml"
        (folder / "notes").mkdir()
        columns = ("clip_id", "file", "split", "category", "spoken", "captions")
        with open(folder / "notes" / "clips.tsv", "w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t")
            writer.writerow(columns)
            for clip_id, (file, split) in FILES.items():
                writer.writerow((clip_id, file, split, "kind", "0", json.dumps(["A clip."])))
        self.url = url
        self.write()

    def write(self, **more):
        dataset = {
            "annotations": "notes",
            "url": f"{self.url}/{{file}}",
            "expected": {"train": 4, "test": 2, "val": 1},
            "min_coverage": 0.1,
        }
        document = {
            "targets": ["demo_classification"],
            "experiments": str(REPO / "demo" / "experiments"),
            "datasets": {"demo": dataset | more},
            "recipe": {"pretrain": None, "missing_audio": "none"},
        }
        self.config.write_text(yaml.safe_dump(document))

    @property
    def files(self):
        return [REPO / "config.yaml", REPO / "demo" / "config.yaml", self.config]

    def the_pause_is_over(self) -> None:
        for journal in self.folder.glob("data/*/shards/*/media/journal.jsonl"):
            journal.write_text(re.sub(r'"again":\d+', '"again":0', journal.read_text()))

    def plan(self):
        return make_plan(self.files)

    def snakemake(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", self.folder]
        command += ["--snakefile", REPO / "workflow" / "Snakefile", "--resources", "net_slots=2"]
        command += ["--configfile", *self.files[1:], "--", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    def status(self, width=200, **how) -> str:
        text = StringIO()
        console = Console(file=text, width=width, highlight=False, soft_wrap=True)
        data_status.status(self.plan(), how.get("dataset"), how.get("missing"), console)
        return text.getvalue()


def line(text: str, begin: str) -> list[str]:
    """Return the cells of the table's line with this beginning."""
    (found,) = [row for row in text.splitlines() if row.startswith(f"{begin} ")]
    return found.split()


def by_hand(world, folder):
    """Make the missing files of the ledger and their dependants, as Snakemake does."""
    plan = world.plan()
    (version,) = plan.versions
    if not Path(folder, "plan.parquet").is_file():
        data.plan(plan, version)
    for shard in range(2):
        if not Path(layout.shard_dir(version, shard), "fetch.parquet").is_file():
            data.fetch(plan, version, shard)
            data.probe(version, shard)
    if not Path(folder, "ledger.parquet").is_file():
        data.ledger(plan, version)


def by_snakemake(world, folder):
    world.snakemake(f"{folder}/ledger.parquet")
