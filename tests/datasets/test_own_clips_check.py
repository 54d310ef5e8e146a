"""Own clips: what is checked before a run, what a plan counts, and where clips go."""

from pathlib import Path

import miniatures
import pytest
from own_tables import ROWS, write

from clip4vla.cache.clips import ClipCache
from clip4vla.config import layout
from clip4vla.config.planner import make_plan
from clip4vla.cost.estimate import clip_counts, data_costs
from clip4vla.stages import data as stage
from clip4vla.stages.inputs import input_problems
from clip4vla.stages.own_clips import own_media

REPO = Path(__file__).parents[2]


TABLE = """
table: mine
title: Mine
paper_table: none
columns: [{dataset: mine, metric: t2v_R1}]
base: {model.architecture: tiny, model.weights: null, missing_audio: none, test: TEST, finetune: null}
rows: [{row: both, label: both}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with three small clips and their table; returns the plan that it makes."""
    monkeypatch.chdir(tmp_path)
    miniatures.write_media(tmp_path / "videos", ["a.mp4", "b.mp4", "c.mp4"], silent=["c"])
    write(tmp_path / "clips.csv", [row | {"file": f"{row['id']}.mp4"} for row in ROWS])
    (tmp_path / "tables").mkdir()

    def plan(test="test", **more):
        (tmp_path / "tables" / "mine.yaml").write_text(TABLE.replace("TEST", test))
        mine = {"reader": "csv", "annotations": "clips.csv", "media": "videos"} | more
        values = {"experiments": "tables", "targets": ["mine"], "datasets": {"mine": mine}}
        return make_plan([REPO / "config.yaml"], values)

    return plan


def checked(plan, decode=True):
    """What `clip4vla data check --decode` prints, and its problems."""
    assert input_problems(plan) == []
    found = own_media(plan, decode)
    return found.lines, found.problems


def test_a_check_before_anything_runs(project):
    lines, problems = checked(project())
    assert lines[0].startswith("mine: 3 clips (test 1, train 1, val 1), 3 captions, 2 labels; ver")
    assert lines[1:] == [
        "mine: 3 of 3 files are there",
        "mine: 3 of 3 files decode, 1 of them without sound (first: c.mp4, no_audio_stream)",
    ]
    assert problems == []
    assert not Path("data").exists()


def test_a_check_names_files_that_are_missing_broken_copied_or_too_short(project, tmp_path):
    plan, videos = project(), tmp_path / "videos"
    videos.joinpath("b.mp4").write_bytes(videos.joinpath("a.mp4").read_bytes())
    (line,) = checked(plan)[1]
    assert line.startswith("mine: b.mp4 (val) has the content of a.mp4 (train). Fix: give both one")
    assert checked(plan, decode=False)[1] == []
    videos.joinpath("b.mp4").write_text("no video")
    (line,) = checked(plan)[1]
    assert f"{videos}/b.mp4: not usable: video decode_error, audio decode_error. Fix: " in line
    videos.joinpath("b.mp4").unlink()
    (line,) = checked(plan, decode=False)[1]
    assert f"{videos}/b.mp4: no such file, for clip b. Fix: put it there" in line
    (tmp_path / "secret.mp4").write_bytes(videos.joinpath("a.mp4").read_bytes())
    videos.joinpath("b.mp4").symlink_to(tmp_path / "secret.mp4")
    (line,) = checked(plan)[1]
    assert f"b: {videos}/b.mp4 leads out of {videos}. Fix: " in line
    rows = [{"id": n, "file": "a.mp4", "caption": "x", "start": n, "end": n + 1.5} for n in (0, 3)]
    write(tmp_path / "clips.csv", [row | {"split": "test"} for row in rows])
    (line,) = checked(plan)[1]
    assert "clip 3: ends at 4.5 s, but a.mp4 has 2.0 s. Fix: correct its times" in line


def test_many_missing_files_are_counted(project, tmp_path):
    rows = [{"id": n, "file": f"{n}.mp4", "caption": "x", "split": "test"} for n in range(50)]
    write(tmp_path / "clips.csv", rows)
    lines, problems = checked(project())
    assert "mine: 0 of 50 files are there" in lines
    assert len(problems) == 21 and problems[-1] == "... and 30 more of this kind"


def test_a_table_that_changed_is_reported_before_the_next_run(project, tmp_path):
    plan = project()
    (version,) = plan.versions
    stage.plan(plan, version)
    assert input_problems(plan) == []
    table = tmp_path / "clips.csv"
    table.write_text(table.read_text().replace("Übung", "Lied"))
    (line,) = input_problems(plan)
    assert line.startswith(f"mine: {table}: changed since {version} was planned from it. Fix: ")
    assert f"delete data/{version}, or set datasets.mine.version" in line
    assert input_problems(project(version="v2")) == []
    (tmp_path / "data" / version / "cache-0" / "manifest.json").parent.mkdir()
    (tmp_path / "data" / version / "cache-0" / "manifest.json").write_text("{}")
    (line,) = input_problems(plan)
    assert "delete" not in line and "Fix: set datasets.mine.version to another name" in line


def test_a_broken_table_and_a_misspelt_split_are_reported_before_the_first_run(project, tmp_path):
    (line,) = input_problems(project(test="tset"))
    assert "test: mine has no split 'tset', by its table; did you mean test?" in line
    table = tmp_path / "clips.csv"
    table.write_text(table.read_text().replace("caption", "captoin"))
    (line,) = input_problems(project())
    assert "clips.csv, line 1: unknown column 'captoin'; did you mean caption?" in line
    table.unlink()
    (line,) = input_problems(project())
    assert line.startswith(f"mine: its annotations in {table} missing. Fix: ")


def test_a_plan_counts_the_clips_of_the_table(project):
    plan = project()
    (version,) = plan.versions
    assert clip_counts(plan)[version, "test"] == (1, 1)
    assert data_costs(plan)[0].clips == 3
    expected = project(expected={"test": {"clips": 9, "with_sound": 8}})
    assert clip_counts(expected)[version, "test"] == (9, 8)


@pytest.mark.parametrize("suffix", [".mp4", ".wav"])
def test_cuts_and_whole_files_go_to_shards(project, tmp_path, suffix):
    """Two cuts of one file, one of them silent by its rows' times, and a whole file."""
    miniatures.write_media(tmp_path / "videos", [f"long{suffix}", "short.wav"])
    rows = [
        {"id": "first", "file": f"long{suffix}", "caption": "x", "label": "l", "start": 0, "end": 0.75},
        {"id": "second", "file": f"long{suffix}", "caption": "y", "label": "m", "start": 0.75, "end": 2},
        {"id": "whole", "file": "short.wav", "caption": "z", "label": "l", "start": "", "end": ""},
    ]  # fmt: skip
    write(tmp_path / "clips.csv", [row | {"split": "test"} for row in rows])
    plan = project()
    ((version, cache_id),) = plan.caches
    stage.plan(plan, version)
    stage.fetch(plan, version, 0)
    stage.probe(version, 0)
    stage.ledger(plan, version)
    stage.cache(plan, version, cache_id, 0)
    stage.freeze(plan, version, cache_id)
    cache = ClipCache(Path(layout.manifest(version, cache_id)))
    assert cache.manifest["splits"]["test"]["usable"] == 3
    seconds = dict(zip(cache.clips.clip_id, cache.clips.duration, strict=True))
    assert seconds == pytest.approx({"first": 0.75, "second": 1.25, "whole": 2.0}, abs=0.3)
    assert input_problems(plan) == []
