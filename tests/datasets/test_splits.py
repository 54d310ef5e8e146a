"""A split that its dataset cannot have is refused before anything is trained."""

from pathlib import Path

import miniatures
import pytest

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_table
from clip4vla.config import layout
from clip4vla.config.data import Dataset
from clip4vla.config.planner import make_plan
from clip4vla.datasets import readers
from clip4vla.datasets.plan import plan_tables
from clip4vla.datasets.ready import missing_files
from clip4vla.datasets.splits import unknown_splits
from clip4vla.stages import data as stage

REPO = Path(__file__).parents[2]
DEMO = [REPO / "config.yaml", REPO / "demo" / "config.yaml"]
NAMED = sorted(n for n, reader in readers().items() if hasattr(reader, "NAMES_ALL_SPLITS"))


@pytest.mark.parametrize("reader", NAMED)
def test_a_reader_that_names_all_splits_gives_no_other(tmp_path, reader):
    miniatures.WRITE[reader](tmp_path)
    section = Dataset(reader=reader, annotations=tmp_path, media=tmp_path)
    _, splits, _ = plan_tables(reader, section)
    named = {s for protocol in readers()[reader].PROTOCOLS.values() for s in protocol.splits()}
    assert set(splits["split"].to_pylist()) <= named


def test_every_reader_of_the_paper_names_its_splits():
    assert set(readers()) - set(NAMED) == {"demo", "csv"}


def problems(target: str, tmp_path, change=(), values=None) -> list[str]:
    """What is wrong with the splits of a shipped table in which a text is changed."""
    text = (REPO / "experiments" / f"{target}.yaml").read_text()
    for old, new in change:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / f"{target}.yaml").write_text(text)
    (tmp_path / "policies.yaml").write_text((REPO / "experiments" / "policies.yaml").read_text())
    changes = {"experiments": str(tmp_path), "targets": [target]} | (values or {})
    return unknown_splits(make_plan([REPO / "config.yaml"], changes))


@pytest.mark.parametrize(
    ("target", "change", "said"),
    [
        ("table5", ("test: test_1k", "test: tets_1k"), "test: msrvtt has no split 'tets_1k'; did you mean test_1k?"),
        ("table5", ("train: train_ours", "train: train_outs"), "finetune.train: msrvtt has no split 'train_outs'; did you mean train_ours?"),
        ("table1", ("donor_split: train_ours", "donor_split: train_owrs"), "donor_split: msrvtt has no split 'train_owrs'; did you mean train_ours?"),
        ("table5", ("val: val_ours", "val: val_9k"), "finetune.val: msrvtt has no split 'val_9k'; known: val_ours, caption_val"),
        ("table5", ("train: train_ours", "train: test_ours"), "finetune.train: msrvtt has no split 'test_ours'; did you mean train_ours?"),
        ("table5", ("val: val_ours", "val: dev"), "finetune.val: msrvtt has no split 'dev'; known: val_ours, caption_val"),
        ("table6", ("esc50: [1, 2, 3, 4, 5]", "esc50: [1, 2, 9]"), "test: esc50 has no split 'test_9'; did you mean test_"),
    ],
)  # fmt: skip
def test_a_misspelt_split_is_reported_with_its_place(tmp_path, monkeypatch, target, change, said):
    monkeypatch.chdir(tmp_path)
    assert problems(target, tmp_path) == []
    first = problems(target, tmp_path, [change])[0]
    assert first.startswith(f"{tmp_path / target}.yaml:") and f": table {target}, row " in first
    assert said in first


def test_a_held_out_split_is_reported_with_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"datasets.audiocaps.held_out": ["val", "tset"]}
    said = problems("table5", tmp_path, values=values)
    assert said == [
        "command line: datasets.audiocaps.held_out: audiocaps has no split 'tset'; "
        "did you mean test? Fix: correct the name"
    ]


def test_a_misspelt_split_of_a_base_is_reported_with_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = {"dataset": "howto100m", "split": "trian", "nonverbal_share": 0}
    said = problems("table1", tmp_path, values={"bases.stage1.pretrain.sources": [source]})[0]
    assert said.startswith("command line: table table1, row ")
    assert "pretrain.sources.0.split: howto100m has no split 'trian'; did you mean train?" in said


def test_a_split_that_is_not_read_need_not_exist(tmp_path, monkeypatch):
    """Table 5 leaves silent clips out, and so takes no donors."""
    monkeypatch.chdir(tmp_path)
    assert problems("table5", tmp_path, [("donor_split: train", "donor_split: nowhere")]) == []


def test_splits_that_files_name_themselves_are_accepted_until_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    miniatures.demo(tmp_path / "notes")
    table = (REPO / "demo/experiments/demo_classification.yaml").read_text()
    (tmp_path / "demo_classification.yaml").write_text(table)
    values = {
        "experiments": str(tmp_path),
        "targets": ["demo_classification"],
        "datasets.demo.annotations": "notes",
        "recipe": {"test": "tets", "pretrain": None},
    }
    plan = make_plan(DEMO, values)
    assert unknown_splits(plan) == []
    (version,) = plan.versions
    with pytest.raises(UserError, match="test: demo has no split 'tets', by its lists; did you"):
        stage.plan(plan, version)
    assert not Path(layout.data_dir(version)).exists()

    section = plan.config.datasets["demo"]
    clips, splits, _ = plan_tables("demo", section)
    write_table(Path(layout.data_dir(version), "splits.parquet"), splits)
    (line,) = unknown_splits(plan)
    assert line.startswith("command line: table demo_classification, row ")
    assert "test: demo has no split 'tets', by its lists as they were read" in line


def test_who_disables_a_dataset_is_told_of_what_it_holds_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = missing_files(make_plan([REPO / "config.yaml"], {"targets": ["table5"]}))
    told = {line.split(":")[0]: "pre-training then sees its `held_out`" in line for line in lines}
    assert told["msrvtt"] and told["audiocaps"] and not told["howto100m"]
