"""Whole videos under clip names and truncated clips are flagged, counted and cut on request."""

import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

REPO = Path(__file__).parents[2]
for folder in ("media", "datasets"):
    sys.path.insert(0, str(REPO / "tests" / folder))

import miniatures  # noqa: E402
from synthetic import make_clip  # noqa: E402

from clip4vla.common.errors import UserError  # noqa: E402
from clip4vla.config import layout  # noqa: E402
from clip4vla.config.data import Dataset  # noqa: E402
from clip4vla.config.keys import dataset_version  # noqa: E402
from clip4vla.config.planner import make_plan  # noqa: E402
from clip4vla.datasets.plan import plan as plan_clips  # noqa: E402
from clip4vla.media.decode import decode_frames  # noqa: E402
from clip4vla.media.ledger import build_ledger  # noqa: E402
from clip4vla.stages import data, data_status  # noqa: E402

# clip (annotated as 10 s from its own second on): seconds of its file
FILES = {
    "v_a-_00000003_000003_000013": 25.0,  # the whole video
    "v_a-_00000004_000004_000014": 4.0,  # what a download left
    "v_a-_00000002_000002_000012": 11.5,  # a little longer: cut at a key frame
    "v_b-_00000000_000000_000010": 13.0,  # the whole video, and begins where the clip does
}


class Local:
    """VATEX in miniature with files of several lengths, and the stages of its data."""

    def __init__(self, folder: Path):
        self.notes, self.media, self.config = folder / "notes", folder / "media", folder / "my.yaml"
        self.notes.mkdir()
        miniatures.vatex(self.notes)
        section = Dataset(reader="vatex", annotations=self.notes, media=self.media)
        clips, _ = plan_clips("vatex", section)
        self.media.mkdir()
        for row in clips.itertuples():
            seconds = FILES.get(row.clip_id, 10.0)
            make_clip(self.media / row.file, seconds=seconds, fps=1, sound=("mono", 8000))

    def plan(self, **more):
        dataset = {"annotations": str(self.notes), "media": str(self.media), "shards": 1} | more
        others = ("msrvtt", "audiocaps", "howto100m", "audioset", "esc50", "ucf101")
        datasets = {name: {"enabled": False} for name in others} | {"vatex": dataset}
        recipe = {"pretrain": None, "model.weights": None, "model.architecture": "tiny"}
        document = {"targets": ["table1"], "datasets": datasets, "recipe": recipe}
        document["experiments"] = str(self.experiments())
        self.config.write_text(yaml.safe_dump(document))
        return make_plan([REPO / "config.yaml", self.config])

    def experiments(self) -> Path:
        folder = self.notes.parent / "tables"
        folder.mkdir(exist_ok=True)
        (folder / "table1.yaml").write_text(
            "table: table1\ntitle: T\ncolumns: [{dataset: vatex, metric: t2v_R1, label: R}]\n"
            "base: {finetune.train: train, finetune.val: val, test: test, donor_split: train}\n"
            "rows: [{row: one, label: one}]\n"
        )
        return folder

    def until_probed(self, plan) -> str:
        (version,) = plan.versions
        data.plan(plan, version)
        data.fetch(plan, version, 0)
        data.probe(version, 0)
        return version


@pytest.fixture
def local(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return Local(tmp_path)


def ledger_of(version) -> pd.DataFrame:
    return pd.read_parquet(f"{layout.data_dir(version)}/ledger.parquet").set_index("clip_id")


def status(plan) -> str:
    text = StringIO()
    data_status.status(plan, None, None, Console(file=text, width=200, highlight=False))
    return text.getvalue()


def test_files_of_another_length_are_flagged_counted_and_used(local):
    plan = local.plan(max_longer=1)
    version = local.until_probed(plan)
    data.ledger(plan, version)
    ledger = ledger_of(version)
    flagged = ledger.length[ledger.length != "ok"]
    assert dict(flagged) == {
        "v_a-_00000003_000003_000013": "longer_than_annotated",
        "v_b-_00000000_000000_000010": "longer_than_annotated",
        "v_a-_00000004_000004_000014": "shorter_than_annotated",
    }
    assert set(ledger.fetch) == set(ledger.video) == {"ok"}  # used as they are
    coverage = pd.read_csv(f"{layout.data_dir(version)}/coverage.csv").set_index("split")
    assert dict(coverage.longer_than_annotated) == {
        "caption_test": 0, "caption_val": 1, "test": 0, "train": 1, "val": 1,
    }  # fmt: skip
    assert coverage.shorter_than_annotated["train"] == 1 and coverage.with_video["train"] == 5
    missing = pd.read_csv(f"{layout.data_dir(version)}/missing.tsv", sep="\t", index_col="clip_id")
    assert list(missing.index) == sorted(flagged.index) and list(missing.length) == list(
        flagged.sort_index()
    )
    said = missing.detail["v_a-_00000003_000003_000013"]
    path = ledger.path["v_a-_00000003_000003_000013"]
    assert said.startswith("25.") and said.endswith(f" s where 10.0 s are annotated; {path}")
    text = status(plan)
    assert "longer_than_annotated" in text and "set `cut_longer: true`" in text
    assert "shorter_than_annotated" in text and "replace the file" in text


def test_many_longer_files_stop_the_ledger_with_both_remedies(local):
    plan = local.plan()
    version = local.until_probed(plan)
    with pytest.raises(UserError) as caught:
        data.ledger(plan, version)
    text = str(caught.value)
    assert "2 of 11 usable clips are longer than annotated, more than max_longer 10.0%" in text
    assert "datasets.vatex.cut_longer: true" in text and "datasets.vatex.max_longer: 1" in text
    assert "a-_00000003_000003_000013.mp4, 25." in text and "where 10.0 s are annotated" in text
    assert len(text.splitlines()) == 1
    data.ledger(local.plan(max_longer=2 / 11), version)


def test_whole_videos_are_cut_where_that_is_asked_for_and_nothing_else_is(local):
    plan = local.plan(cut_longer=True)
    version = local.until_probed(plan)
    data.ledger(plan, version)
    ledger = ledger_of(version)
    cut = ["v_a-_00000003_000003_000013", "v_b-_00000000_000000_000010"]
    inside = ledger.path.str.startswith(layout.media_dir(version, 0))
    assert sorted(ledger.index[inside]) == cut
    assert list(ledger.length[cut]) == ["ok", "ok"]
    assert list(ledger.start[cut]) == [3.0, 0.0] and list(ledger.end[cut]) == [13.0, 10.0]
    assert ledger.start[~inside].isna().all()
    assert all(abs(ledger.duration[cut] - 10) < 1.1)
    assert ledger.detail[cut[0]].endswith("_000003_000013.mp4, longer than annotated")
    grays = [frame.mean() for frame in decode_frames(ledger.path[cut[0]], 1.0)]
    assert abs(grays[0] - 30) < 8 and 9 <= len(grays) <= 11  # from second 3 on
    assert ledger.length["v_a-_00000004_000004_000014"] == "shorter_than_annotated"
    whole = local.media / "a-_00000003_000003_000013.mp4"
    assert whole.stat().st_size > Path(ledger.path[cut[0]]).stat().st_size


def test_a_longer_file_that_does_not_reach_to_the_clips_end_is_no_whole_video(local, monkeypatch):
    name = "a-_00000003_000003_000013"
    miniatures.vatex(local.notes)
    (local.media / f"{name}.mp4").unlink()
    moved = "a-_00000003_000050_000060"
    path = local.notes / "vatex_training_v1.0.json"
    path.write_text(path.read_text().replace(name, moved))
    make_clip(local.media / f"{moved}.mp4", seconds=14.0, fps=1)
    plan = local.plan(cut_longer=True)
    version = local.until_probed(plan)
    data.ledger(plan, version)
    ledger = ledger_of(version)
    assert ledger.length[f"v_{moved}"] == "longer_than_annotated"
    assert ledger.path[f"v_{moved}"] == str(local.media / f"{moved}.mp4")
    assert "look at some of them" in status(plan)


def test_a_version_from_before_keeps_its_name_and_needs_no_annotated_times(local):
    old = Dataset(reader="vatex", annotations=local.notes, media=local.media)
    cutting = old.model_copy(update={"cut_longer": True})
    assert "cut_longer" not in old.scientific() and "max_longer" not in old.scientific()
    assert dataset_version("vatex", old) != dataset_version("vatex", cutting)
    plan = local.plan()
    version = local.until_probed(plan)
    folder = layout.data_dir(version)
    path = Path(folder, "plan.parquet")
    before = pd.read_parquet(path).drop(columns=["annotated_start", "annotated_end"])
    before.to_parquet(path)
    data.fetch(plan, version, 0)
    data.ledger(plan, version)
    assert set(ledger_of(version).length) == {"unknown"}
    assert "annotated" not in status(plan)
    shard = Path(layout.shard_dir(version, 0))
    tables = (pd.read_parquet(shard / f"{name}.parquet") for name in ("fetch", "probe"))
    assert len(build_ledger(before, *tables)) == 11


@pytest.mark.parametrize(
    ("reader", "why"),
    [("howto100m", "its clips are cut anyway"), ("esc50", "its lists have no times")],
)
def test_cutting_where_there_is_nothing_to_compare_is_refused(tmp_path, reader, why):
    miniatures.WRITE[reader](tmp_path)
    section = Dataset(reader=reader, annotations=tmp_path, media=tmp_path, cut_longer=True)
    with pytest.raises(UserError, match=rf"datasets\.mine\.cut_longer: {why}"):
        plan_clips("mine", section)


def test_only_local_files_are_cut():
    with pytest.raises(ValueError, match="set source: local"):
        Dataset(reader="vatex", annotations="x", source="youtube", cut_longer=True)
