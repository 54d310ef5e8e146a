"""A small project on 27 demo clips and a gone one that walks every rule, run through `demo/run.py`."""

import csv
import hashlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
# (split, spoken, audio) -> how many: every kind of clip that the demo has
KINDS = {
    ("pretrain", "1", "ok"): 6,
    ("train", "0", "ok"): 8,
    ("train", "0", "digital_silence"): 1,
    ("train", "0", "no_audio_stream"): 1,
    ("val", "0", "ok"): 4,
    ("test", "0", "ok"): 4,
    ("test", "0", "digital_silence"): 1,
    ("test", "0", "no_audio_stream"): 1,
}
CUT, GONE = "bbb_380", "lost_owl"  # cut from the longer film; no longer on the server
CONFIG = """
experiments: tables
targets: [mini_retrieval, mini_captioning, mini_classification, mini_across]
datasets.demo:
  annotations: notes
  expected: {pretrain: 6, train: 12, val: 4, test: 6}
recipe:
  inputs: {max_frames: 2, max_segments: 2}
  pretrain:
    inputs: {max_frames: 2, max_segments: 2}
    optimiser: {epochs: 2, batch_size: 6}
  finetune.optimiser: {epochs: 2, batch_size: 8}
"""
TABLES = {
    "mini_retrieval": """
title: Retrieval
paper_table: table1
comparable: false
note: tiny
columns: [{dataset: demo, metric: t2v_R1, label: "R@1"}]
rows:
  - {row: clip4vla, label: "audio + vision"}
  - {row: vision_only, label: "vision", set: {modalities: [vision], pretrain: null}}
""",
    "mini_captioning": """
title: Captioning
columns: [{dataset: demo, metric: CIDEr, label: CIDEr}]
base: {task: captioning}
rows:
  - {row: clip4vla, label: "audio + vision"}
""",
    "mini_classification": """
title: Classification
columns: [{dataset: demo, metric: accuracy, label: accuracy}]
base: {task: classification, missing_audio: none}
rows:
  - {row: clip4vla, label: "audio + vision"}
""",
    "mini_across": """
title: Sounds and pictures
gallery: with_sound
columns: [{dataset: demo, metric: a2v_R1}, {dataset: demo, metric: v2a_R1}]
base: {query: audio, missing_audio: filter, finetune: null}
rows:
  - {row: clip4vla, label: "audio, vision"}
""",
}


def read(name: str) -> list[dict[str, str]]:
    with open(REPO / "demo" / name, newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


COST = re.compile(rb"Cost: |<dt>(Cost|Date)</dt>")  # a line of a table, the top of the page
SPENT = re.compile(rb'<section aria-labelledby="cost">.*?</section>', re.DOTALL)  # of the page


class Project:
    """A folder with a config, tables and annotations, and the command that runs them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.out = folder / "out"
        (folder / "tables").mkdir(parents=True)
        (folder / "notes").mkdir()
        (folder / "config.yaml").write_text(CONFIG)
        for name, text in TABLES.items():
            (folder / "tables" / f"{name}.yaml").write_text(f"table: {name}\n{text}")
        chosen, left = [], dict(KINDS)
        for row in read("clips.tsv"):
            kind = (row["split"], row["spoken"], row["audio"])
            if row["clip_id"] == CUT:
                chosen.append(row)
            elif left.get(kind, 0) > 0:
                left[kind] -= 1
                chosen.append(row)
        write(folder / "notes" / "clips.tsv", chosen)
        film = [row for row in read("film.tsv") if row["clip_id"] in (CUT, GONE)]
        write(folder / "notes" / "film.tsv", film)

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, str(REPO / "demo" / "run.py"), "--out", str(self.out)),
            *("--port", str(free_port()), "--config", str(self.folder / "config.yaml")),
            *(("--", *arguments) if arguments else ()),
        ]

    def start(self, *arguments: str) -> subprocess.Popen:
        """In a process group of its own, so that a test can kill all of it."""
        with open(self.folder / "out.log", "ab") as log:
            return subprocess.Popen(
                self.command(*arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def contents(self) -> dict[str, str]:
        """sha256 of every file whose bytes follow from the inputs alone, without lines of cost."""
        files = {}
        for top in ("data", "results"):
            for path in sorted((self.out / top).rglob("*")):
                name = str(path.relative_to(self.out))
                if path.is_file() and _is_stable(name):
                    lines = SPENT.sub(b"", path.read_bytes()).split(b"\n")
                    kept = b"\n".join(line for line in lines if not COST.search(line))
                    files[name] = hashlib.sha256(kept).hexdigest()
        return files


def _is_stable(name: str) -> bool:
    # Snakemake's report holds dates; journals hold the order in which downloads ended; costs differ,
    # and with them what the record of the tables says of their files.
    volatile = ("journal.jsonl", "cost.json", "cost.png", "cost.svg", ".lock")
    volatile += ("results/record.json",)
    return not (name == "results/report.zip" or name.endswith(volatile) or "/." in name)
