"""Tables refuse metrics that differ from their runs' records."""

import json
import shutil

import pandas as pd
import pytest
from results_tree import make_tree, metrics, rewrite

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.results.cost import read_costs
from clip4vla.results.sheet import read_sheet
from clip4vla.results.tidy import build_tidy
from clip4vla.tracking import write_record

KEY, OTHER = "aaaaaaaaaaa0", "bbbbbbbbbbb0"


@pytest.fixture
def tree(tmp_path):
    """Make results in which every run has its record."""
    root = make_tree(tmp_path)
    for folder in (root / "runs").iterdir():
        place, files = folder / "record.json", [folder / "metrics.json"]
        write_record(place, kind="evaluate", key=folder.name, name="x", artifacts=files)
    return root


def build(root) -> pd.DataFrame:
    return build_tidy([read_sheet(root / "tables" / "table1" / "rows.json")], root / "runs")


def refused(root, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        build(root)
    assert "\n" not in str(error.value)


def test_intact_runs_are_read_without_warnings(tree, capsys):
    assert len(build(tree))
    assert capsys.readouterr().err == ""


def test_the_numbers_of_another_run_are_refused(tree):
    runs = tree / "runs"
    shutil.copy(runs / OTHER / "metrics.json", runs / KEY / "metrics.json")
    refused(tree, rf"is of run {OTHER}, not of {KEY}\. Fix: delete it and run `snakemake")
    shutil.copy(runs / OTHER / "record.json", runs / KEY / "record.json")
    refused(tree, rf"is of run {OTHER}, not of {KEY}\. Fix: delete it and run `snakemake")


def test_an_edited_number_is_refused(tree):
    write_json(tree / "runs" / KEY / "metrics.json", metrics(KEY, 99.0, gallery=("all",)))
    refused(
        tree,
        rf"{KEY}/metrics\.json: its sha256 differs from the one in record\.json\. Fix: delete it and run ",
    )


def test_a_damaged_record_is_reported(tree):
    (tree / "runs" / KEY / "record.json").write_text('{"kind": "eval')
    refused(tree, rf"{KEY}/record\.json: not a record of a stage")


def test_runs_without_a_record_are_read_with_a_warning(tree, capsys):
    for key in (KEY, OTHER):
        (tree / "runs" / key / "record.json").unlink()
    assert len(build(tree))
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("clip4vla: warning: ") and "metrics.json and 1 more: not verified" in line
    )


def test_a_file_missing_in_its_record_is_read_with_a_warning(tree, capsys):
    rewrite(tree / "runs" / KEY / "record.json", lambda found: found["files"].clear())
    assert len(build(tree))
    assert f"{KEY}/metrics.json: not verified" in capsys.readouterr().err


def test_the_train_json_behind_a_cost_is_checked(tree):
    folder = tree / "runs" / KEY
    write_json(folder / "cost.json", {"hours": 1.0, "hardware": {"cpu": 1.0}, "attempts": 1})
    write_json(folder / "train.json", {"batch_size": 4, "trainable_parameters": 5})
    files = [folder / "train.json"]
    write_record(folder / "record.json", kind="finetune", key=KEY, name="x", artifacts=files)
    assert read_costs([KEY], tree / "runs")[KEY].batch_size == 4
    (folder / "train.json").write_text(json.dumps({"batch_size": 8, "trainable_parameters": 5}))
    with pytest.raises(UserError, match=r"train\.json: .* Fix: delete it and run `snakemake"):
        read_costs([KEY], tree / "runs")
