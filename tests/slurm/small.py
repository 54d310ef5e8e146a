"""A small project for Slurm: local clips, two rows that share one pre-training of two nodes."""

import csv
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
WANTED = {"pretrain": 6, "train": 8, "val": 3, "test": 4}  # clips with sound of every split
CONFIG = """
preset: ours
experiments: tables
paper: {paper}
targets: [small]
datasets:
  demo:
    reader: demo
    annotations: notes
    source: local
    media: {clips}
recipe:
  missing_audio: filter
  model: {{architecture: tiny, weights: null}}
  inputs: {{max_frames: 2, max_segments: 2, max_words: 16}}
  pretrain:
    leaks: keep
    sources:
      - {{dataset: demo, split: pretrain, nonverbal_share: 0}}
      - {{dataset: demo, split: train, nonverbal_share: 1}}
    inputs: {{max_frames: 2, max_segments: 2, max_words: 16}}
    optimiser: {{lr: 1.0e-3, epochs: {epochs}, batch_size: 6}}
"""
TABLE = """
table: small
title: Small
note: tiny towers
comparable: false
gallery: with_sound
columns: [{dataset: demo, metric: t2v_R1, label: "R@1"}]
rows:
  - {row: clip4vla, label: "audio + vision"}
"""


class Small:
    """A folder with a config, a table and annotations; `command` runs Snakemake on it."""

    def __init__(self, folder: Path, epochs: int = 2):
        self.folder = folder
        (folder / "tables").mkdir(parents=True)
        (folder / "notes").mkdir()
        paths = {"paper": REPO / "experiments" / "paper.tsv", "clips": REPO / "demo"}
        (folder / "config.yaml").write_text(CONFIG.format(epochs=epochs, **paths))
        (folder / "tables" / "small.yaml").write_text(TABLE)
        with open(REPO / "demo" / "clips.tsv", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        left, chosen = dict(WANTED), []
        for row in rows:
            if row["audio"] == "ok" and left.get(row["split"], 0) > 0:
                left[row["split"]] -= 1
                chosen.append(row)
        with open(folder / "notes" / "clips.tsv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0].keys(), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(chosen)

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "workflow/Snakefile")),
            *("--directory", str(self.folder), "--configfile", str(self.folder / "config.yaml")),
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str) -> subprocess.Popen:
        with open(self.folder / "out.log", "ab") as log:
            return subprocess.Popen(
                self.command(*arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.folder / "out.log").read_text()
