"""Every dataset from its official files to shards, and rows on them, on miniatures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import miniatures
import pandas as pd
import pytest

from clip4vla.cache.clips import ClipCache
from clip4vla.config import layout
from clip4vla.config.data import Dataset
from clip4vla.config.planner import make_plan
from clip4vla.datasets.plan import plan as plan_clips
from clip4vla.stages import data as stages

REPO = Path(__file__).parents[2]
PAPER = [name for name in miniatures.WRITE if name != "demo"]
TINY = """
recipe:
  model: {architecture: tiny, weights: null, joint_layers: 1}
  inputs: {max_frames: 2, max_segments: 2, max_words: 16}
  pretrain:
    sources:
      - {dataset: howto100m, split: train, nonverbal_share: 0}
      - {dataset: audioset, split: train, nonverbal_share: 1}
    inputs: {max_frames: 2, max_segments: 2, max_words: 16}
    optimiser: {epochs: 1, batch_size: 4}
  finetune.optimiser: {epochs: 1, batch_size: 4}
"""
RETRIEVAL = """
table: retrieval
title: Retrieval
columns:
  - {dataset: msrvtt, metric: t2v_R1, label: "R@1"}
  - {dataset: vatex, metric: t2v_R1, label: "R@1"}
  - {dataset: audiocaps, metric: t2v_R1, label: "R@1"}
datasets:
  msrvtt: {finetune.train: train_ours, finetune.val: val_ours, test: test_1k, donor_split: train_ours}
rows: [{row: clip4vla, label: "audio + vision"}]
"""
SOUNDS = """
table: sounds
title: ESC-50
gallery: with_sound
columns: [{dataset: esc50, metric: accuracy, label: accuracy}]
base: {task: classification, modalities: [audio], missing_audio: filter, finetune.train: train_ours_1,
       finetune.val: val_ours_1, test: test_1, pretrain: null}
rows: [{row: audio, label: "audio"}]
"""
ACTIONS = """
table: actions
title: UCF101
columns: [{dataset: ucf101, metric: accuracy, label: accuracy}]
base: {task: classification, missing_audio: none, finetune.train: train_ours_1,
       finetune.val: val_ours_1, test: test_1, pretrain: null}
rows: [{row: both, label: "audio + vision"}]
"""


EVENTS = """
table: events
title: VGGSound
columns: [{dataset: vggsound, metric: accuracy, label: accuracy}]
base: {task: classification, missing_audio: none, finetune.train: train, finetune.val: null,
       finetune.selection: last, test: test, pretrain: null}
rows: [{row: both, label: "audio + vision"}]
"""
TAGS = """
table: tags
title: AudioSet
columns: [{dataset: audioset, metric: mAP, label: mAP}]
base: {task: tagging, missing_audio: none, finetune.train: balanced, finetune.val: null,
       finetune.selection: last, test: eval, pretrain: null}
rows: [{row: both, label: "audio + vision"}]
"""


class Project:
    """Miniatures of `names` with their media, tables, and the config that names them.

    names: of datasets, or of a form of their files where there are several.
    """

    def __init__(self, folder: Path, forms, **tables):
        names = {miniatures.FORMS[form][0]: miniatures.FORMS[form][1] for form in forms}
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir(parents=True)
        (folder / "tables").mkdir()
        for table, text in tables.items():
            (folder / "tables" / f"{table}.yaml").write_text(text)
        lines = [f"experiments: tables\ntargets: [{', '.join(tables)}]\n{TINY}datasets:\n"]
        for name in PAPER:
            if name not in names:
                lines.append(f"  {name}: {{enabled: false}}\n")
                continue
            notes, media = folder / "notes" / name, folder / "media" / name
            notes.mkdir(parents=True)
            names[name](notes)
            clips, _ = plan_clips(name, Dataset(reader=name, annotations=notes, media=media))
            seconds = 26.0 if name == "howto100m" else 2.0  # its clips are cut from whole videos
            miniatures.write_media(media, clips.file, seconds)
            places = f"annotations: notes/{name}, media: media/{name}"
            lines.append(f"  {name}: {{{places}, shards: 2, min_coverage: 0.9}}\n")
        self.config = folder / "mine.yaml"
        self.config.write_text("".join(lines))
        self.plan = make_plan([REPO / "config.yaml", self.config])

    def run(self, *arguments):
        command = [sys.executable, "-m", "snakemake", *arguments]
        command += [
            "--snakefile",
            str(REPO / "workflow" / "Snakefile"),
            "--directory",
            str(self.out),
        ]
        command += ["--profile", str(REPO / "profiles" / "demo"), "--configfile", str(self.config)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        logs = [path.read_text()[-1500:] for path in self.out.glob("logs/**/*.log")]
        assert done.returncode == 0, done.stderr[-4000:] + "\n".join(logs)[-8000:]
        return done

    def caches(self):
        return {
            self.plan.versions[version]: ClipCache(self.out / layout.manifest(version, cache_id))
            for version, cache_id in self.plan.caches
        }


def check_caches(project, names):
    caches = project.caches()
    assert set(caches) == set(names)
    for name, cache in caches.items():
        assert cache.manifest["not_decodable"] == {}
        assert cache.manifest["clips"]["planned"] == cache.manifest["clips"]["usable"] > 0
        clip = cache.read(next(iter(cache.clips.clip_id)))
        assert clip.log_mel is not None and (len(clip.frames) == 0) == (name == "esc50")
    return caches


def make_caches(project, monkeypatch):
    """Run the commands of the data rules in this process."""
    monkeypatch.chdir(project.out)
    plan = project.plan
    for version, cache_id in plan.caches:
        stages.plan(plan, version)
        for shard in (0, 1):
            stages.fetch(plan, version, shard)
            stages.probe(version, shard)
        stages.ledger(plan, version)
        for shard in (0, 1):
            stages.cache(plan, version, cache_id, shard)
        stages.freeze(plan, version, cache_id)


def test_all_go_from_official_files_to_shards(tmp_path, monkeypatch, capsys):
    tables = {"retrieval": RETRIEVAL, "sounds": SOUNDS, "actions": ACTIONS, "events": EVENTS}
    project = Project(tmp_path, PAPER, **tables)
    make_caches(project, monkeypatch)
    plan = project.plan
    said = capsys.readouterr().out
    assert "audiocaps: split test has 2 clips, officially 975 (-99.8%; BEYOND" in said
    assert "howto100m: " in said and "give no clip" in said
    caches = check_caches(project, PAPER)
    assert caches["howto100m"].manifest["clips"]["usable"] == 9
    check_events(caches, said)
    version = next(v for v, name in plan.versions.items() if name == "msrvtt")
    coverage = pd.read_csv(f"{layout.data_dir(version)}/coverage.csv").set_index("split")
    row = coverage.loc["test_1k"]
    assert (row.expected, row.expected_with_sound, row.planned, row.with_sound) == (1000, 884, 2, 2)
    assert row.remark == "planned -99.8%, with_video -99.8%, with_sound -99.8%"


def test_events_go_from_other_forms_of_their_files_to_shards(tmp_path, monkeypatch, capsys):
    forms = ["audioset_json", "vggsound_pair"]
    project = Project(tmp_path, forms, events=EVENTS, tags=TAGS)
    make_caches(project, monkeypatch)
    check_events(check_caches(project, ["audioset", "vggsound"]), capsys.readouterr().out)


def check_events(caches, said):
    """The splits of AudioSet and VGGSound, in whatever form their files were, and the notes."""
    sizes = {
        name: {split: counts["usable"] for split, counts in caches[name].manifest["splits"].items()}
        for name in ("audioset", "vggsound")
    }
    assert sizes["audioset"] == {"train": 8, "balanced": 2, "eval": 4, "retrieval_1725": 3}
    kept = {split: sizes["vggsound"][split] for split in ("train", "test", "retrieval_1545")}
    assert kept == {"train": 7, "test": 7, "retrieval_1545": 7}
    several = caches["audioset"].splits.set_index(["split", "clip_id"])["labels"]
    assert several["balanced", "v_--_00000000"] == ("Speech", "Male speech, man speaking")
    assert "retrieval_1725 has 3 of its 1,725 clips" in said
    assert "retrieval_1545 has 7 clips that are not the published list" in said


@pytest.mark.workflow
@pytest.mark.slow
def test_events_through_the_rules(tmp_path):
    """Probes of one label and of several, to their tables."""
    project = Project(tmp_path, ["audioset_json", "vggsound"], events=EVENTS, tags=TAGS)
    project.run()
    for key in project.plan.stage("evaluate"):
        metrics = json.loads((project.out / layout.result_dir(key) / "metrics.json").read_text())
        assert metrics["galleries"]["all"]["n_gallery"] in (4, 7)
        assert len(metrics["classes"]) == {"audioset": 2, "vggsound": 4}[metrics["dataset"]]
        assert metrics["leaks_kept"] is None  # nothing was pre-trained


@pytest.mark.workflow
@pytest.mark.slow
def test_esc50_through_the_rules(tmp_path):
    project = Project(tmp_path, ["esc50"], sounds=SOUNDS)
    project.run("data")
    caches = check_caches(project, ["esc50"])
    assert caches["esc50"].manifest["splits"]["test_1"]["usable"] == 2


@pytest.mark.workflow
@pytest.mark.slow
def test_rows_on_all_through_the_rules(tmp_path):
    """Pre-training, fine-tuning, probes and tables; one held-out video is left out."""
    tables = {"retrieval": RETRIEVAL, "sounds": SOUNDS, "actions": ACTIONS, "events": EVENTS}
    project = Project(tmp_path, PAPER, **tables)
    leaking = project.folder / "notes" / "audioset" / "unbalanced_train_segments.csv"
    leaking.write_text(leaking.read_text().replace("x-_00000001", "s-_00000007"))
    media = project.folder / "media" / "audioset"
    (media / "x-_00000001.mp4").rename(media / "s-_00000007.mp4")
    project.run()
    check_caches(project, PAPER)
    (key,) = project.plan.stage("pretrain")
    facts = json.loads((project.out / layout.result_dir(key) / "train.json").read_text())
    dropped = {
        part["dataset"].split("-")[0]: part["leaks_dropped"] for part in facts["data"]["train"]
    }
    assert dropped == {"howto100m": 0, "audioset": 1} and facts["leaks_dropped"] == 1
    assert facts["data"]["leaks"]["held_out"].keys() == {
        version for version, name in project.plan.versions.items()
        if name in ("audiocaps", "msrvtt", "vatex")
    }  # fmt: skip
    table = (project.out / "results" / "tables" / "retrieval" / "table.md").read_text()
    assert "left out of pre-training because their videos are held out: 1." in table
    for key in project.plan.stage("evaluate"):
        metrics = json.loads((project.out / layout.result_dir(key) / "metrics.json").read_text())
        scored = 7 if metrics["dataset"] == "vggsound" else 2
        assert metrics["galleries"]["with_sound"]["n_gallery"] == scored
        pretrained = metrics["dataset"] in ("msrvtt", "vatex", "audiocaps")
        assert metrics["leaks_kept"] == (0 if pretrained else None)
