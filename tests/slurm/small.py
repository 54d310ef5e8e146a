"""A small project for Slurm: a copy of the repository's workflow beside a config of few clips."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
EPOCHS = 60  # of two steps, in the projects that trouble comes to
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
    """What a user's clone looks like, with few clips; `command` runs Snakemake in it."""

    def __init__(self, folder: Path, epochs: int = 2):
        self.folder = folder
        for name in ("workflow", "rules", "envs", "profiles"):
            shutil.copytree(REPO / name, folder / name)
        (folder / "tables").mkdir()
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

    def copy(self, folder: Path) -> "Small":
        """The same project elsewhere, with all that it has reached."""
        other = object.__new__(Small)
        other.folder = Path(shutil.copytree(self.folder, folder))
        return other

    def run(self, *command: str, expect: int | None = 0, timeout: float = 300):
        """Run a command as a user in the folder would, and look at how it ends."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert expect in (None, done.returncode), done.stdout + done.stderr
        return done

    def environment(self) -> dict[str, str]:
        # `snakemake` and `clip4vla` as the user of an activated environment types them
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str) -> subprocess.Popen:
        with open(self.folder / "out.log", "ab") as log:
            return subprocess.Popen(
                ["snakemake", *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.folder / "out.log").read_text()
